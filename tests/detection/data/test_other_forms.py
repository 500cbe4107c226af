"""Forms that are not read here are told by name, as the tools write them; those that are read are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("supervision")
from nasnet_det.detection.data.coco_format import read_annotations
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import read_folder
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.data.other_forms import OTHER_FORMS, tell_forms
from tests.detection.data.forms import FORMS, small

_SHAPE = {"label": "fox", "points": [[4, 5], [16, 21]], "group_id": None, "shape_type": "rectangle", "flags": {}}
_REGION = {"shape_attributes": {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2, 3]}}
_RESULT = {"id": "r", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": {"x": 1}}
_KITTI = (
    "hen 0.0 0 -1 4.0 5.0 16.0 21.0 -1 -1 -1 -1 -1 -1 -1 1.0\ngrey seal 0.0 0 -1 1 2 3 4 -1 -1 -1 -1 -1 -1 -1 1.0\n"
)
_EXAMPLES = [
    ("annotations.xml", '<?xml version="1.0"?>\n<annotations>\n  <version>1.1</version>\n  <meta>', "CVAT"),
    ("train/labels.xml", '<annotations><image id="0" name="a.png" width="4" height="3"/></annotations>', "CVAT"),
    ("Annotations/a.xml", "<annotation><filename>a.png</filename><imagesize><nrows>4</nrows>", "LabelMe"),
    ("r.xml", "<annotation><object><name>fox</name><robndbox><cx>4</cx></robndbox></object></annotation>", "rotated"),
    ("training.xml", "<dataset><images><image file='a.png'><box top='1'/></image></images></dataset>", "dlib"),
    ("train/a.json", {"version": "5.4.1", "flags": {}, "shapes": [_SHAPE], "imagePath": "a.png"}, "Labelme"),
    ("train/b.json", {"imagePath": "b.png", "imageData": None, "shapes": []}, "Labelme"),
    ("train/via_region_data.json", {"a.png12": {"fileref": "", "filename": "a.png", "regions": {"0": _REGION}}}, "VIA"),
    ("via_project.json", {"_via_settings": {}, "_via_img_metadata": {}}, "VIA"),
    ("via3.json", {"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}}, "VIA"),
    ("annotations/train.json", {"dm_format_version": "1.0", "media_type": 2, "items": []}, "Datumaro"),
    ("annotations/train.datum", "\0", "Datumaro"),
    ("result.json", [{"id": 1, "annotations": [{"result": [_RESULT]}], "data": {"image": "a.png"}}], "Label Studio"),
    ("annotations.json", [{"image": "a.png", "annotations": [{"label": "fox", "coordinates": {}}]}], "CreateML"),
    ("train/labels.json", {"classes": ["fox"], "labels": {"a": [{"label": 0, "bounding_box": []}]}}, "FiftyOne"),
    ("samples.json", {"samples": []}, "FiftyOne"),
    ("meta.json", {"classes": [{"title": "fox", "shape": "rectangle"}], "tags": []}, "Supervisely"),
    ("MVI_1.xml", '<sequence name="MVI_1"><frame density="1" num="1"></frame></sequence>', "UA-DETRAC"),
    ("train/e.json", {"imgHeight": 3, "imgWidth": 4, "objects": [{"label": "car", "polygon": [[1, 2]]}]}, "Cityscapes"),
    ("annotation_train.odgt", '{"ID": "a", "gtboxes": []}', "CrowdHuman"),
    ("xView_train.geojson", {"type": "FeatureCollection"}, "xView"),
    ("annotations/a.txt", "684,8,273,116,0,0,0,0\n406,119,265,70,0,0,0,0,\n", "VisDrone"),
    ("train/Label/a.txt", "Traffic light 12.3 45.0 78.9 90.1\n", "Open Images"),
    ("annotations/image_info_test.json", {"images": [], "categories": []}, "image information"),
    ("annotations/panoptic_train.json", {"images": [], "annotations": []}, "panoptic"),
    ("results.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "results"),
    ("labels/train.json", [{"name": "a.png", "labels": [{"category": "car", "box2d": {"x1": 1}}]}], "BDD100K"),
    ("annotations/hierarchy.json", {"LabelName": "Entity", "Subcategory": []}, "Open Images"),
    ("train/c.json", {"file_name": "c.png", "predictions": []}, "Lightly"),
    ("train_od.json", '{"filename": "a.png", "detection": {"instances": []}}\n{"filename": "b.png"}', "ODVG"),
    ("train/metadata.jsonl", '{"file_name": "a.png", "objects": {"bbox": []}}', "Hugging Face"),
    ("dataset_dict.json", {"splits": ["train"]}, "Hugging Face"),
    ("data/train-00000-of-00001.parquet", "PAR1", "Hugging Face"),
    ("data.ndjson", '{"type": "dataset", "task": "detect"}', "Ultralytics"),
    ("export.ndjson", '{"data_row": {"id": "x"}}', "Labelbox"),
    ("train/sa_1.json", {"image": {"image_id": 1}, "annotations": [{"predicted_iou": 0.9}]}, "Segment Anything"),
    ("output.manifest", '{"source-ref": "s3://a.png", "boxes": {}}', "SageMaker"),
    ("vott/a-asset.json", {"asset": {"name": "a.png"}, "regions": [], "version": "2.1.0"}, "VoTT"),
    ("train/d.json", {"version": "2.0", "schema_ref": "https://darwin/schema", "annotations": []}, "Darwin"),
    ("more.jsonl", '{"a": 1}', "JSON lines"),
    ("train-annotations-bbox.csv", "ImageID,Source,LabelName,Confidence,XMin", "Open Images"),
    ("train/_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax", "CSV"),
    ("train/a.tfrecord", "\0", "TensorFlow"),
    ("1.0.0/fox-train.tfrecord-00000-of-00001", "\0", "TensorFlow"),
    ("train.record-00000-of-00010", "\0", "TensorFlow"),
    ("train/_annotations.txt", "a.png 1,2,3,4,0", "keras-yolo3"),
    ("label_2/000001.txt", _KITTI, "KITTI"),
    ("labelTxt/P1.txt", "imagesource:GoogleEarth\ngsd:0.1\n1.0 2.0 3.0 2.0 3.0 4.0 1.0 4.0 plane 0", "DOTA"),
    ("labelTxt/P2.txt", "1.0 2.0 3.0 2.0 3.0 4.0 1.0 4.0 plane 0", "DOTA"),
    ("labels/a.txt", "0 0.5 0.5 0.25 0.5\n", "YOLO"),
    ("gt/gt.txt", "1,1,4,5,12,16,1,1,1", "MOT"),
    ("wider_face_split/wider_face_train_bbx_gt.txt", "a.png\n1\n4 5 12 16", "WIDER FACE"),
    ("train.pkl", "\x80", "pickled"),
    ("digitStruct.mat", "MATLAB", "MATLAB"),
    ("data.zip", "PK", "archive"),
    ("SegmentationObject/a.png", "", "segmentation in pictures"),
]


@pytest.mark.parametrize(("name", "content", "form"), _EXAMPLES, ids=[name for name, *_ in _EXAMPLES])
def test_other_forms_are_told_by_name(tmp_path: Path, name: str, content: object, form: str) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    Image.new("RGB", (4, 3)).save(tmp_path / "data" / "a.png")
    with pytest.raises((DatasetError, CocoFormatError), match=rf"(?s){path}.*{form}"):
        read_folder(tmp_path / "data")
    if path.suffix == ".json" and "instances" not in str(content):
        assert form in tell_forms(tmp_path / "data")


def test_every_form_has_an_example() -> None:
    named = " ".join(form for *_, form in _EXAMPLES)
    assert not [form.name for form in OTHER_FORMS if not any(word.strip("()'s") in named for word in form.name.split())]


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_that_are_read_are_not_told(tmp_path: Path, pictures: Path, form: str) -> None:
    FORMS[form](tmp_path / "data", {split: small(split) for split in ("train", "val")}, pictures)
    told = tell_forms(tmp_path / "data")
    assert not told or (form == "yolo" and "classes.txt" in told)


def test_pictures_alone_are_told(pictures: Path) -> None:
    with pytest.raises(DatasetError, match=r"\b4 images"):
        read_folder(pictures)


def test_an_annotation_file_of_another_form_is_told_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5}]))
    with pytest.raises(CocoFormatError, match=r"results\.json.*COCO's results"):
        read_annotations(path)
