"""What detectron2 sees: backbones, the split detector of the paper, its data and its evaluation."""
