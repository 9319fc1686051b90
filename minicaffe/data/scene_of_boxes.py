"""An image with boxes in pixels, and what moves both together: mirroring, resizing, placing on a canvas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from minicaffe.data.image import resize


@dataclass(frozen=True)
class BoxScene:
    """``pixels`` (channels, H, W) of bytes; ``objects`` (G, 7) and ``unwanted`` (K, 4) as ``ListedImage`` has them."""

    pixels: np.ndarray
    objects: np.ndarray
    unwanted: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def moved(self, scale: tuple[float, float] = (1, 1), shift: tuple[float, float] = (0, 0)) -> BoxScene:
        """With the boxes scaled, then shifted, by factors and numbers for x and y; the pixels stay."""
        factor, step = (np.tile(np.array(values, np.float32), 2) for values in (scale, shift))
        objects = self.objects.copy()
        objects[:, :4] = objects[:, :4] * factor + step
        return replace(self, objects=objects, unwanted=self.unwanted * factor + step)

    def mirrored(self) -> BoxScene:
        """Left and right exchanged."""
        objects, unwanted = self.objects.copy(), self.unwanted.copy()
        for boxes in (objects, unwanted):
            boxes[:, [0, 2]] = self.size[1] - boxes[:, [2, 0]]
        return BoxScene(self.pixels[:, :, ::-1], objects, unwanted)

    def resized(self, height: int, width: int) -> BoxScene:
        """In another size."""
        if self.size == (height, width):
            return self
        scale = np.float32(width) / np.float32(self.size[1]), np.float32(height) / np.float32(self.size[0])
        moved = self.moved((float(scale[0]), float(scale[1])))
        return replace(moved, pixels=resize(np.ascontiguousarray(self.pixels), height, width))

    def rescaled(
        self, factors: tuple[float, float], center: tuple[float, float]
    ) -> tuple[BoxScene, tuple[float, float]]:
        """Larger or smaller by factors of the width and the height, and where the ``center`` (x, y) was in what was
        rescaled.  What grows by more than half is first cut out around it, 1.2 times as large as it must be."""
        scene, (x, y) = self, center
        if max(factors) > 1.5:
            size = [
                min(rounded(1.2 * side / factor), side) for side, factor in zip(self.size[::-1], factors, strict=True)
            ]
            corner = [
                max(min(max(rounded(at - side * 0.5), 0), whole - side), 0)
                for at, side, whole in zip(center, size, self.size[::-1], strict=True)
            ]
            rows, columns = slice(corner[1], corner[1] + size[1]), slice(corner[0], corner[0] + size[0])
            scene = replace(self.moved(shift=(-corner[0], -corner[1])), pixels=self.pixels[:, rows, columns])
            x, y = x - corner[0], y - corner[1]
        if factors == (1, 1):
            return scene, (x, y)
        height, width = (max(rounded(side * f), 1) for side, f in zip(scene.size, factors[::-1], strict=True))
        pixels = resize(np.ascontiguousarray(scene.pixels), height, width)
        return replace(scene.moved(factors), pixels=pixels), (x, y)


def rounded(value: float) -> int:
    """To the nearest integer, halves away from zero, as C rounds."""
    return int(np.copysign(np.floor(abs(value) + 0.5), value))


@dataclass(frozen=True)
class Place:
    """Along one axis, where on the canvas and from where in the image how many pixels go."""

    on_canvas: int
    in_image: int
    count: int


def place(canvas: int, image: int, center: float, noise: int) -> Place:
    """A smaller image goes to about the middle of the canvas; of a larger one the part around ``center`` is taken."""
    if image < canvas:
        room = canvas - image
        return Place(min(max(rounded(room / 2) + noise, 0), room), 0, image)
    if image > canvas:
        first = rounded(center) + noise - rounded(canvas / 2)
        return Place(0, min(max(first, 0), image - canvas), canvas)
    return Place(0, 0, canvas)
