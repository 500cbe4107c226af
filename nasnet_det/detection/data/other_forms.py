"""Forms of annotations that are not read here: told by their files, with what to do."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from nasnet_det.safe_io.folders import is_picture, walk

#: So many characters of a file tell its form.
_HEAD = 4000
#: So many files of each kind in a folder are looked at: there may be one for each image.
_FILES = 3


class OtherForm(NamedTuple):
    """A form of annotations.

    Args:
        name: what it is called.
        path: a pattern that the end of the file's path matches, in lower case.
        content: a pattern that is found in the beginning of the file.
        remedy: what to do; empty for a conversion by another tool.
    """

    name: str
    path: str
    content: str = ""
    remedy: str = ""


_CONVERT = "convert it to COCO's, YOLO's or Pascal VOC's form; datumaro and FiftyOne read many"
_ROBOFLOW = "export it as COCO or YOLO"
_FIFTYONE = "export it with dataset_type=fiftyone.types.COCODetectionDataset"
_DATUMARO = "export it as coco_instances or yolo_ultralytics"
_HUGGING_FACE = "write its objects as COCO, YOLO or Pascal VOC"
#: Of several that match, the first is meant.
OTHER_FORMS = (
    OtherForm(
        "CVAT's XML",
        r"\.xml",
        r"<annotations>\s*<(version|meta|image)\b",
        "export it from CVAT as COCO 1.0 or Ultralytics YOLO Detection 1.0",
    ),
    OtherForm("LabelMe's XML", r"\.xml", r"<(sourceImage|imagesize|deleted)\b"),
    OtherForm("rotated boxes (roLabelImg, DIOR-R)", r"\.xml", r"<robndbox>"),
    OtherForm("dlib's XML", r"\.xml", r"<image file="),
    OtherForm("UA-DETRAC's XML", r"\.xml", r"<sequence\b"),
    OtherForm("Labelme's JSON", r"\.json", r'"shapes"\s*:\s*\[', "convert it by labelme2coco"),
    OtherForm(
        "VIA (VGG Image Annotator)",
        r"\.json",
        r'"(_via_\w+|shape_attributes|file_attributes)"|^\{\s*"project".*"view"',
        "export it from VIA as COCO (Annotation, Export Annotations)",
    ),
    OtherForm("Datumaro", r"\.json", r'"dm_format_version"', _DATUMARO),
    OtherForm("Datumaro's binary form", r"\.datum", "", _DATUMARO),
    OtherForm(
        "Label Studio's JSON",
        r"\.json",
        r'"(from_name|completed_by|annotator|rectanglelabels|polygonlabels)"',
        "export it from Label Studio as COCO or YOLO, with images",
    ),
    OtherForm("CreateML", r"\.json", r'^\[\s*\{\s*"(image|imagefilename)".*"annotations?"', _ROBOFLOW),
    OtherForm("FiftyOne", r"(labels|samples|metadata)\.json", r'^\{\s*"(classes|samples|media_type)"', _FIFTYONE),
    OtherForm("Supervisely", r"\.json", r'"classTitle"|"classes"\s*:\s*\[\s*\{\s*"(id|title)"'),
    OtherForm("a JSON file for each image (Cityscapes, Mapillary)", r"\.json", r'"objects"\s*:\s*\['),
    OtherForm("Segment Anything", r"\.json", r'"(predicted_iou|stability_score)"'),
    OtherForm("VoTT", r"\.(json|vott)", r'"(assets|visitedAssets|asset)"\s*:\s*\{'),
    OtherForm("Darwin (V7)", r"\.json", r'"schema_ref"', "export it from V7 as COCO"),
    OtherForm("COCO's image information", r"/image_info_[^/]*\.json", "", "take its file of instances"),
    OtherForm("COCO's panoptic segmentation", r"/panoptic_[^/]*\.json", "", "take its file of instances"),
    OtherForm("COCO's results", r"\.json", r'^\[\s*\{[^{}]*"score"', "take the file of annotations"),
    OtherForm("BDD100K (Scalabel)", r"\.json", r'"(box2d|poly2d)"'),
    OtherForm("Open Images' classes", r"\.json", r'"LabelName"'),
    OtherForm("the predictions of Lightly", r"\.json", r'^\{\s*"file_name".*"predictions"'),
    OtherForm("ODVG (OpenMMLab)", r"\.jsonl?", r'^\{\s*"filename"[^\n]*"(detection|grounding)"'),
    OtherForm("a Hugging Face image folder", r"metadata\.(jsonl|csv|parquet)", "", _HUGGING_FACE),
    OtherForm("a Hugging Face data set", r"(dataset_dict|state)\.json|\.(parquet|arrow)", "", _HUGGING_FACE),
    OtherForm(
        "Ultralytics' NDJSON", r"\.ndjson", r'"type"\s*:\s*"dataset"', "let ultralytics convert it to YOLO's form"
    ),
    OtherForm("Labelbox", r"\.(nd)?json", r'"data_row"'),
    OtherForm("SageMaker's manifest", r"\.(manifest|jsonl)", r'"source-ref"'),
    OtherForm("CrowdHuman", r"\.odgt"),
    OtherForm("GeoJSON (xView)", r"\.geojson"),
    OtherForm("JSON lines", r"\.(jsonl|ndjson)"),
    OtherForm("Open Images", r"\.csv", r"^.?ImageID\b"),
    OtherForm("a table of boxes (CSV)", r"\.(csv|tsv)"),
    OtherForm("TensorFlow's records", r"\.tfrecords?(-\d.*)?|\.record(-\d.*)?"),
    OtherForm("keras-yolo3", r"_annotations\.txt", "", _ROBOFLOW),
    OtherForm("KITTI", r"\.txt", r"^[^\d\n][^\n]*( -?[\d.]+){14,15}(\n|$)"),
    OtherForm("DOTA", r"\.txt", r"^(imagesource:|gsd:|(-?[\d.]+ ){8}[^\d\n])"),
    OtherForm("VisDrone", r"\.txt", r"^(-?\d+,){7}-?\d+,?\s*(\n|$)"),
    OtherForm("the toolkit of Open Images", r"\.txt", r"^[^\d\W][^\d\n]*( \d+\.\d+){4}\s*(\n|$)"),
    OtherForm("YOLO", r"\.txt", r"^\d+( [\d.e-]+){4,}(\n|$)", "add classes.txt, a list of the class names, one a line"),
    OtherForm("MOT", r"/gt\.txt"),
    OtherForm("WIDER FACE", r"wider_face\w*\.txt"),
    OtherForm("pickled annotations", r"\.(pkl|pickle)"),
    OtherForm("MATLAB's annotations", r"\.mat"),
    OtherForm("an archive", r"\.(zip|tar|tgz|gz|7z|rar|bz2|xz)", "", "unpack it"),
    OtherForm("a segmentation in pictures", r"segmentation(object|class)/[^/]*\.png"),
)


def tell_form(path: Path) -> str:
    """Return what a file is and what to do, if it is of a form that is not read here; else an empty text."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    except OSError:
        return ""
    name = path.as_posix().lower()
    for form in OTHER_FORMS:
        if re.search(f"({form.path})$", name) and re.search(form.content, head, re.DOTALL):
            return f"{path} is in the form of {form.name}, which is not read here: {form.remedy or _CONVERT}"
    return ""


def tell_forms(folder: Path) -> str:
    """Return what the files of a folder are and what to do, if one is of a form that is not read here.

    Pictures alone are told, too.
    """
    pictures = files = 0
    for place, names in walk(folder):
        seen: Counter[str] = Counter()
        for name in sorted(names):
            path = place / name
            pictures += is_picture(path)
            files += 1
            seen[path.suffix.lower()] += 1
            if seen[path.suffix.lower()] <= _FILES and (found := tell_form(path)):
                return found
    return f"There are {pictures} images, but no annotations" if 0 < pictures == files else ""
