"""Folders in YOLO's form."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("supervision")
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import open_dataset, read_folder
from nasnet_det.detection.data.inspection import look_at
from tests.detection.data.forms import essence, notes_of, small, write_voc, write_yolo


def test_yolo_lists_polygons_and_another_machines_path(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(pictures, root / "images")
    (root / "labels").mkdir()
    (root / "labels" / "train1.txt").write_text("1 0.25 0.1 0.5 0.1 0.5 0.4\n")
    (root / "train.txt").write_text("images/train1.png\n./images/train2.png\n")
    (root / "data.yaml").write_text("path: /home/else\ntrain: train.txt\nval: images\nnames: {0: fox, 1: hen}\n")
    found = read_folder(root)
    (entry,) = found["train"].content["annotations"]
    assert entry["bbox"] == pytest.approx([10, 3, 10, 9])
    assert entry["segmentation"] == [pytest.approx([10, 3, 20, 3, 20, 12])]
    assert len(found["val"].content["images"]) == 4


@pytest.mark.parametrize(
    "settings",
    [
        "train: images\\train\nval: images\\val\nnames: [fox, hen]",
        "train: ../images/train\nval: [list.txt]\nnames: {'0': fox, '1': hen}",
        "path: /me/set\ntrain: /me/set/images/train\nval: list.txt\nnames: [fox, hen]",
        "train: C:\\me\\images\\train\nval: cvat.txt\nnames: [fox, hen]",
    ],
)
def test_yolo_settings_of_other_systems_and_tools(tmp_path: Path, pictures: Path, settings: str) -> None:
    root = tmp_path / "root"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    (root / "data.yaml").write_text(settings)
    (root / "list.txt").write_bytes(b"\xef\xbb\xbfimages\\val\\val1.png\r\nimages\\val\\val2.png\r\n")
    (root / "cvat.txt").write_text("data/images/val/val1.png\ndata/images/val/val2.png\n")
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted


def test_other_files_with_class_names_are_told(tmp_path: Path, pictures: Path) -> None:
    write_yolo(tmp_path, {"train": small("train")}, pictures)
    (tmp_path / "older.yaml").write_text("train: images/train\nnames: [hen, fox]")
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01")
    (tmp_path / "bad.yaml").write_bytes(b"names: \xff [")
    assert ["older.yaml"] in notes_of(tmp_path).values()
    assert [entry["name"] for entry in read_folder(tmp_path)["train"].categories] == ["fox", "hen"]


@pytest.mark.parametrize("folder", ["../{}/images", "/content/set/{}/images", "C:\\set\\{}\\images"])
def test_the_folder_of_a_split_is_not_that_of_all_images(tmp_path: Path, pictures: Path, folder: str) -> None:
    """As in Roboflow's settings in another tool's folders."""
    write_yolo(tmp_path, {split: small(split) for split in ("train", "val")}, pictures)
    lines = "".join(f"{split}: {folder.format(split)}\n" for split in ("train", "val"))
    (tmp_path / "data.yaml").write_text(f"{lines}names: [fox, hen]\n")
    with pytest.raises(CocoFormatError, match=r"data\.yaml names .*train"):
        read_folder(tmp_path)


@pytest.mark.parametrize("val", ["", "val:", "val: []", "val: ''"])
def test_folders_of_splits_that_the_settings_leave_out_are_told(tmp_path: Path, pictures: Path, val: str) -> None:
    write_yolo(tmp_path, {split: small(split) for split in ("train", "val")}, pictures)
    (tmp_path / "data.yaml").write_text(f"train: images/train\n{val}\nnames: [fox, hen]\n")
    assert list(read_folder(tmp_path)) == ["train"]
    assert ["val"] in notes_of(tmp_path).values()
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [fox, hen]\n")
    assert ["val"] not in notes_of(tmp_path).values()


def test_yolo_files_without_a_partner_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    assert not notes_of(root)
    labels = root / "labels" / "train"
    (labels / "train1.txt").rename(labels / "other.txt")
    (labels / "deeper").mkdir()
    (labels / "deeper" / "lost.txt").touch()
    (labels / "classes.txt").write_text("fox\nhen\n")
    found = notes_of(root)
    assert sorted(found.values()) == [["lost.txt", "other.txt"], ["train1.png"]]
    assert not notes_of(root, "val")
    # A list of images may leave some to another split.
    (root / "train.txt").write_text("images/train/train2.png")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [fox, hen]")
    assert list(notes_of(root).values()) == [["lost.txt", "other.txt"]]


@pytest.mark.parametrize("inside", [True, False])
def test_yolo_folders_are_found_from_anywhere(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    monkeypatch.chdir(tmp_path / "data" if inside else tmp_path)
    data = read_folder("." if inside else "data")["train"]
    assert len(data.content["annotations"]) == 2 and not data.notes


@pytest.mark.parametrize(
    "label",
    [
        "1 0.5 0.5 0.2",
        "7 0.5 0.5 0.2 0.2",
        "x 0 0 1 1",
        f"{10**20} 0.5 0.5 0.2 0.2",
        "1 20 15 10 8",
        "1 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 1",
    ],
)
def test_bad_labels_name_their_file(tmp_path: Path, pictures: Path, label: str) -> None:
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    (tmp_path / "data" / "labels" / "train" / "train1.txt").write_text(label)
    with pytest.raises(CocoFormatError, match=r"train1\.txt"):
        open_dataset(tmp_path / "data")


@pytest.mark.parametrize(
    "settings",
    ["nc: 2", "names: [no, yes]", "names: [fox, fox]", "names: fox", "names: {1: fox}", "names: [fox, hen]\nnc: 3"]
    + ["names: [1, '1']", "names: {0: fox, 1: cow, 1: hen}", "names: [fox, cow]\nnames: [fox, hen]"]
    + [f"names: [fox, hen]\nkpt_shape: {shape}" for shape in ("17", "[17, x]", "[17]")],
)
def test_class_names_that_would_be_misread_are_refused(tmp_path: Path, pictures: Path, settings: str) -> None:
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    (tmp_path / "data" / "data.yaml").write_text(f"train: images/train\n{settings}\n")
    with pytest.raises(CocoFormatError, match=r"data\.yaml.*n"):
        read_folder(tmp_path / "data")


def test_yolo_images_of_one_label_file_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    shutil.copy(root / "images" / "train" / "train1.png", root / "images" / "train" / "train1.jpg")
    assert list(notes_of(root).values()) == [["train1.jpg", "train1.png"]]
    assert not notes_of(root, "val")


def test_yolo_lists_may_name_images_in_another_way(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = essence(read_folder(root)["train"])
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [fox, hen]")
    (root / "train.txt").write_text("images/train/TRAIN1.png\nimages/train/train2.jpg")
    found = look_at(read_folder(root)["train"], training=False)
    assert {Path(record["file_name"]).name for record in found.records} == set(wanted)
    assert [len(record["annotations"]) for record in found.records] == [1, 1]
    assert [trouble.count for trouble in found.troubles] == [2]


@pytest.mark.parametrize("lists", [True, False])
def test_a_list_of_class_names_is_enough(tmp_path: Path, pictures: Path, lists: bool) -> None:
    root = tmp_path / "data"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    (root / "data.yaml").unlink()
    (root / "labels" / "train" / "classes.txt").write_text("fox\nhen\n")  # where LabelImg saves label files
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted
    (root / "labels" / "train" / "classes.txt").rename(root / "classes.txt")
    if lists:  # as CVAT has it: labels beside the images
        for split in wanted:
            for folder in ("images", "labels"):
                shutil.copytree(root / folder / split, root / "obj_train_data", dirs_exist_ok=True)
            names = [f"data/obj_train_data/{path.name}" for path in (root / "images" / split).iterdir()]
            (root / f"{split}.txt").write_text("\n".join(names))
        (root / "classes.txt").rename(root / "obj.names")
        for folder in ("images", "labels"):
            shutil.rmtree(root / folder)
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted


def test_lists_of_class_names_that_contradict_each_other(tmp_path: Path, pictures: Path) -> None:
    """LabelImg writes one to each folder, in the order in which the classes were drawn there."""
    write_yolo(tmp_path, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(tmp_path).items()}
    for split, names in (("train", "fox\nhen\n"), ("val", "fox\nhen\ncow\n")):
        (tmp_path / "labels" / split / "classes.txt").write_text(names)
    assert not notes_of(tmp_path, "val")
    settings = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").unlink()
    found = read_folder(tmp_path)
    assert {split: essence(data) for split, data in found.items()} == wanted and found["val"].names[2] == "cow"
    (tmp_path / "labels" / "val" / "classes.txt").write_text("hen\nfox\n")
    with pytest.raises(CocoFormatError, match=r"val.classes\.txt lists hen, fox.*train.classes\.txt fox, hen"):
        read_folder(tmp_path)
    (tmp_path / "data.yaml").write_text(settings)
    assert list(notes_of(tmp_path).values()) == [["classes.txt"]]


def test_class_names_beside_another_form_are_no_yolo_data(tmp_path: Path, pictures: Path) -> None:
    write_voc(tmp_path / "data", {"train": small("train")}, pictures)
    wanted = essence(read_folder(tmp_path / "data")["train"])
    (tmp_path / "data" / "classes.txt").write_text("fox\nhen\n")
    assert essence(read_folder(tmp_path / "data")["train"]) == wanted


def test_yolo_labels_in_another_letter_case_are_used_and_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = read_folder(root)["train"].content["annotations"]
    (root / "images").rename(root / "Images")
    (root / "labels").rename(root / "Labels")
    (root / "data.yaml").write_text("train: Images/train\nval: Images/val\nnames: [fox, hen]")
    labels = root / "Labels" / "train"
    (labels / "train1.txt").rename(labels / "TRAIN1.TXT")
    assert read_folder(root)["train"].content["annotations"] == wanted
    assert [names for what, names in notes_of(root).items() if "letter case" in what] == [["TRAIN1.TXT", "train2.txt"]]
    # A file that two images may mean is nobody's.
    shutil.copy(root / "Images" / "train" / "train1.png", root / "Images" / "train" / "Train1.png")
    assert ["Train1.png", "train1.png"] in notes_of(root).values()


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
def test_settings_without_splits_have_the_usual_folders(tmp_path: Path, pictures: Path, layout: str) -> None:
    """As supervision writes them; the images to test on are of neither set."""
    root = tmp_path / "root"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    shutil.copytree(root / "images" / "val", root / "images" / "test")
    shutil.copytree(root / "labels" / "val", root / "labels" / "test")
    (root / "data.yaml").write_text("nc: 2\nnames: [fox, hen]\n")
    if layout == "{}/images":
        for split in ("train", "val", "test"):
            for kind in ("images", "labels"):
                (root / split).mkdir(exist_ok=True)
                (root / kind / split).rename(root / split / kind)
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted


def test_settings_of_a_copy_that_name_the_first_are_told(tmp_path: Path, pictures: Path) -> None:
    """As FiftyOne's and ultralytics', whose path is that of the folder that was written."""
    root = tmp_path / "root"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    settings = root / "data.yaml"
    settings.write_text(settings.read_text().replace("path: .", f"path: {root}"))
    assert not notes_of(root)
    shutil.copytree(root, tmp_path / "copy")
    (linked := tmp_path / "linked").symlink_to(root)
    assert list(notes_of(tmp_path / "copy").values()) == [["train"]] and not notes_of(linked)
    shutil.move(root, tmp_path / "moved")
    assert not notes_of(tmp_path / "copy")


def test_lists_of_ultralytics_autosplit_are_kept_to(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "root"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    for split in wanted:
        names = [f"./images/all/{path.name}\n" for path in sorted((root / "images" / split).iterdir())]
        (root / f"autosplit_{split}.txt").write_text("".join(names))
        for kind in ("images", "labels"):
            shutil.copytree(root / kind / split, root / kind / "all", dirs_exist_ok=True)
            shutil.rmtree(root / kind / split)
    (root / "data.yaml").write_text("names: [fox, hen]\n")
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted


def test_settings_may_name_folders_from_where_they_were_written(tmp_path: Path, pictures: Path) -> None:
    """As PyLabel's, whose paths begin in the folder that it ran in."""
    root = tmp_path / "root"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    lines = "".join(f"{split}: work/out/root/images/{split}\n" for split in ("train", "val"))
    (root / "data.yaml").write_text(f"path: ..\n{lines}names: [fox, hen]\n")
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted


def test_label_files_without_images_are_told(tmp_path: Path, pictures: Path) -> None:
    """As Label Studio exports them unless images are asked for."""
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    shutil.rmtree(tmp_path / "data" / "images")
    (tmp_path / "data" / "data.yaml").rename(tmp_path / "data" / "classes.txt")
    with pytest.raises(CocoFormatError, match=r"data has label files.*images"):
        read_folder(tmp_path / "data")
    shutil.copy(pictures / "val1.png", tmp_path / "data")
    with pytest.raises(CocoFormatError, match=r"data has label files.*images"):
        read_folder(tmp_path / "data")
    (tmp_path / "data" / "labels" / "train").rename(tmp_path / "data" / "obj_train_data")  # CVAT's
    with pytest.raises(CocoFormatError, match=r"data has label files.*obj_train_data"):
        read_folder(tmp_path / "data")


def write_rows(root: Path, pictures: Path, rows: list[list[float]]) -> Path:
    """Write a folder with the same objects on each of its images; return it."""
    write_yolo(root, {"train": small("train")}, pictures)
    for number in (1, 2):
        lines = [" ".join(map(str, (0, *row))) for row in rows]
        (root / "labels" / "train" / f"train{number}.txt").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("visible", [0, 1, 2])
def test_keypoints_that_the_settings_leave_out_are_no_polygons(tmp_path: Path, pictures: Path, visible: int) -> None:
    row = [0.5, 0.5, 0.25, 0.4, 0.45, 0.5, visible, 0.55, 0.6, 1]
    data = read_folder(write_rows(tmp_path, pictures, [row]))["train"]
    assert [entry["bbox"] for entry in data.content["annotations"]] == [pytest.approx([15, 9, 10, 12])] * 2
    assert not any("segmentation" in entry for entry in data.content["annotations"])
    (told,) = data.notes
    assert told.count == 2 and "kpt_shape [2, 3]" in str(told)


@pytest.mark.parametrize("rest", [[7], [0], [0.9], [0.9, 1], [0.9, 17]])
def test_numbers_of_tracks_and_scores_may_follow_boxes(tmp_path: Path, pictures: Path, rest: list[float]) -> None:
    """As CVAT exports videos, and as ultralytics saves what it detects or tracks."""
    rows = [[0.5, 0.5, 0.25, 0.4, *rest], [0.5, 0.5, 0.25, 0.4, *rest[:-1], 3]]
    data = read_folder(write_rows(tmp_path, pictures, rows))["train"]
    assert [entry["bbox"] for entry in data.content["annotations"]] == [pytest.approx([15, 9, 10, 12])] * 4
    assert not any("segmentation" in entry for entry in data.content["annotations"]) and not data.notes


def test_yolo_boxes_with_an_angle_are_named(tmp_path: Path, pictures: Path) -> None:
    write_rows(tmp_path, pictures, [[0.5, 0.5, 0.25, 0.4, 1.57], [0.4, 0.5, 0.25, 0.4, -0.3]])
    assert list(notes_of(tmp_path).values()) == [["train1.txt", "train2.txt"]]


def test_points_that_may_be_keypoints_are_asked_about(tmp_path: Path, pictures: Path) -> None:
    poses = [[0.5, 0.5, 0.25, 0.4, 0.4, 0.35, 0.6, 0.65], [0.3, 0.6, 0.2, 0.2, 0.25, 0.55, 0.38, 0.69]] * 2
    (told,) = read_folder(write_rows(tmp_path / "poses", pictures, poses))["train"].notes
    assert "kpt_shape [2, 2]" in str(told)
    corners = [[0.1, 0.2, 0.5, 0.2, 0.5, 0.4, 0.1, 0.4], [0.5, 0.5, 0.7, 0.5, 0.7, 0.9, 0.5, 0.9]]
    small_ones = [[x, y, x + 0.02, y, x + 0.02, y + 0.02, x, y + 0.02] for x in (0.4, 0.5) for y in (0.3, 0.6)]
    for number, rows in enumerate((corners * 2, small_ones)):
        assert not read_folder(write_rows(tmp_path / str(number), pictures, rows))["train"].notes


def test_lists_in_another_encoding_say_which_is_needed(tmp_path: Path, pictures: Path) -> None:
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train1.txt").touch()
    (tmp_path / "classes.txt").write_text("fox\nhen\n", encoding="utf-16")  # as an editor of Windows saves it
    with pytest.raises(CocoFormatError, match=r"classes\.txt.*UTF-8"):
        read_folder(tmp_path)
