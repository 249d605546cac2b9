"""Shapes and their overlap."""

import cv2
import numpy as np


def iou(one, other):
    """Area that two convex polygons share over the area of both."""
    one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
    shared = cv2.intersectConvexConvex(one, other)[0]
    return shared / (cv2.contourArea(one) + cv2.contourArea(other) - shared)


def rectangle(middle, size, degrees):
    """Corners of a rectangle that is turned clockwise, as one sees it, from its upper left."""
    angle = np.deg2rad(degrees)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * np.array(size) / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return corners @ turn + middle
