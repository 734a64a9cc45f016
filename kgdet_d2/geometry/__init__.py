"""Pure tensor functions on points, boxes and keypoints; they import torch alone."""
