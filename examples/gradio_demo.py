"""A detector in the browser: drop a picture, move the threshold.

pip install gradio
python examples/gradio_demo.py output/my_run
"""

import sys

import gradio

from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.draw.detections import detections_of, draw


def interface(detector: str) -> gradio.Interface:
    """Return the page for a run folder, or a checkpoint that holds its config."""
    predictor = Predictor(load_config(detector))
    names = [category["name"] for category in predictor.categories]

    def detect(image, threshold):
        return draw(image, detections_of(predictor(image), names, threshold))

    inputs = [gradio.Image(type="pil", label="picture"), gradio.Slider(0, 1, value=0.5, label="threshold")]
    return gradio.Interface(detect, inputs, gradio.Image(type="pil", label="detections"), title=detector)


if __name__ == "__main__":
    interface(sys.argv[1]).launch()
