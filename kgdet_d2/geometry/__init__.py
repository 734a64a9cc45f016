"""Pure tensor functions on points, boxes and landmarks. Imports torch alone."""
