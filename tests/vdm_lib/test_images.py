import io

import numpy as np
import pytest
from PIL import Image

from vdm_lib.images import grid, write_loss_curve, write_png


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_lies_in_the_grid_and_the_rest_differs_from_a_grey_image(channels):
    levels = np.array([0, 7, 16], np.uint8)
    canvas = grid(np.broadcast_to(levels[:, None, None, None], (3, 2, 2, channels)).copy(), 17)
    assert canvas.shape == (7, 7, 3)
    np.testing.assert_array_equal(canvas[[1, 1, 4], [1, 4, 1]], [[0] * 3, [112] * 3, [255] * 3])
    ground = canvas[0, 0]
    np.testing.assert_array_equal(canvas[4:6, 4:6], np.broadcast_to(ground, (2, 2, 3)))
    # A stroke of a grey image at its edge must not run into the ground.
    assert len(set(ground.tolist())) > 1 or channels == 3


def test_a_picture_is_enlarged_by_whole_pixels(tmp_path):
    picture = np.arange(7, dtype=np.uint8).reshape(1, 7, 1)
    write_png(str(tmp_path / "a.png"), picture, min_width=20)
    enlarged = np.asarray(Image.open(tmp_path / "a.png"))
    assert enlarged.shape == (3, 21)
    np.testing.assert_array_equal(enlarged[0, ::3], picture[0, :, 0])


def test_the_curve_shows_every_point_a_title_and_the_error_of_a_level(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    levels = {"test": (1.975, 0.5), "baseline": (2.4, 0.0)}
    write_loss_curve(str(tmp_path / "loss.png"), [10, 20], [90.0, 2.1], levels, title="digits")
    (axes,) = figures[0].axes
    assert axes.get_title() == "digits"
    low, high = axes.get_ylim()
    assert low <= 1.475
    assert high >= 90.0
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["training (with dropout)", "test: 1.975 ± 0.500", "baseline: 2.400"]
    (band,) = axes.patches
    assert band.get_extents().transformed(axes.transData.inverted()).intervaly == pytest.approx([1.475, 2.475])
    assert Image.open(io.BytesIO((tmp_path / "loss.png").read_bytes())).format == "PNG"
