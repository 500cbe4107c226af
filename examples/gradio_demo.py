"""A detector in the browser: drop a picture, move the threshold.

pip install gradio
python examples/gradio_demo.py output/my_run
"""

import sys

import gradio

from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.draw.detections import detections_of, draw
from nasnet_det.safe_io.images import ImageError, read_image


def interface(detector: str) -> gradio.Interface:
    """Return the page for a run folder, or a checkpoint that holds its config."""
    predictor = Predictor(load_config(detector))
    names = [category["name"] for category in predictor.categories]

    def detect(path, threshold):
        if path is None:
            return None
        try:
            image = read_image(path)
            return draw(image, detections_of(predictor(image), names, threshold))
        except ImageError as error:
            raise gradio.Error(str(error)) from None

    # The file itself: Gradio's own conversion makes 16-bit pictures white.
    picture = gradio.Image(type="filepath", image_mode=None, label="picture")
    inputs = [picture, gradio.Slider(0, 1, value=0.5, label="threshold")]
    return gradio.Interface(detect, inputs, gradio.Image(type="pil", label="detections"), title=detector)


if __name__ == "__main__":
    interface(sys.argv[1]).launch()
