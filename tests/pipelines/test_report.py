import base64
import json
import re
import shutil
import struct
import subprocess
from dataclasses import asdict

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboardX import SummaryWriter

import configs
from pipelines import command, run_dir
from pipelines.run_report.page import page_of_runs
from pipelines.run_report.plots import _binned, _noise_levels
from pipelines.run_report.record import read_run
from tests.pipelines.reports import bpd_report
from vdm_lib.report import NoiseLevel

EVIL = "<script>console.error('run me')</script>"
TITLES = (
    "Bits per dimension",
    "The three terms",
    "Noise schedule",
    "Signal to noise",
    "Density of log SNR",
    "Variance by time",
    "End points of gamma",
    "Loss against log SNR",
    "Gradient norm",
    "Update norm",
    "Learning rate",
    "Steps per second",
)

VARIANCE = {"var_bpd": 1.05, "var_bpd_stderr": 0.02, "var_bpd_by_time": tuple(0.1 + 0.1 * i for i in range(20))}


def make_run(workdir, rows=300, rate=1.0, **overrides):
    run_dir.open_run(str(workdir), configs.load("debug", overrides))
    (workdir / "provenance.json").write_text(json.dumps({"git_commit": EVIL}))
    random = np.random.default_rng(0)
    with (workdir / "metrics.jsonl").open("w") as file:
        for step in range(1, rows + 1):
            bpd = 2.0 + 4.0 * np.exp(-rate * step / 50) + 0.1 * random.standard_normal()
            row = {"step": step, "bpd": bpd, "bpd_recon": 0.1 * bpd, "bpd_latent": 0.002, "bpd_diff": 0.9 * bpd - 0.002}
            row |= {"gamma_0": -6.0, "gamma_1": 5.0, "gradient_norm": 1.0 + step % 7, "update_norm": 0.01}
            file.write(json.dumps(row | {"learning_rate": 0.002, "steps_per_s": 10.0}) + "\n")
    for step in (100, 200, 300):
        levels = tuple(
            NoiseLevel(
                gamma_from=float(g), gamma_to=g + 1.0, bpd=0.2, bpd_stderr=0.01, rate_bpd=1.0, distortion_rmse=None
            )
            for g in range(-6, 5)
        )
        report = bpd_report(
            step, bpd=2.0 + rate / step, bpd_stderr=0.004, num_images=359, noise_levels=levels, **VARIANCE
        )
        run_dir.write_eval_report(str(workdir), report)
    run_dir.write_eval_report(str(workdir), report, "-passes=16")
    with SummaryWriter(str(workdir / "tensorboard")) as board:
        for step in (100, 300):
            board.add_scalar("bpd", 2.0, step)
            board.add_image("samples", random.integers(0, 255, (3, 40, 40), np.uint8), step)
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return make_run(root / "a"), make_run(root / "b", rate=2.0, **{"optim.learning_rate": 0.004})


@pytest.fixture(scope="module")
def page(runs, digits_dir):
    assert command.main(["report", "--workdir", str(runs[0]), "--data", digits_dir]) == 0
    return runs[0] / "report.html"


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Call a headless Chromium on a page; without one the test is skipped."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    profile = tmp_path_factory.mktemp("chromium")

    def browse(page, width, *options):
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--disable-background-networking", f"--user-data-dir={profile}", f"--window-size={width},2000"]
        command += ["--enable-logging=stderr", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return browse


def test_the_page_shows_what_the_run_recorded(page):
    text = page.read_text()
    # Rounded by their errors; 10 classes as a range.
    for words in ("± 0.02<", "1.05 ± 0.02<", "0.200, 0.002, 1.798", "10, of 127 to 161 images"):
        assert words in text, words
    for words in ("2.003 ± 0.004 bits/dim, step 300", "359 test x 2", "passes=16", "1,438", "ab" * 32, "step 100"):
        assert words in text, words
    assert [title for title in TITLES if f'alt="{title}"' in text] == list(TITLES)
    assert text.count("data:image/png;base64,") == 2
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    # Nothing is fetched: every source is in the page.
    assert set(re.findall(r'(?:src|href)="(\w+):', text)) == {"data"}


def test_lines_are_means_of_neighbours_and_bands_hold_every_row(runs):
    run = read_run(str(runs[0]))
    steps, means, smallest, largest = _binned(run, "bpd")
    np.testing.assert_allclose(np.mean(run.columns["bpd"]), np.mean(means), atol=1e-9)
    assert (len(steps), smallest.min(), largest.max()) == (300, run.columns["bpd"].min(), run.columns["bpd"].max())
    many = np.arange(100_000.0)
    run.columns["many"], run.columns["step"] = many, many
    steps, means, smallest, largest = _binned(run, "many")
    assert len(steps) == 400
    np.testing.assert_allclose(means, (smallest + largest) / 2)
    assert (smallest[0], largest[-1]) == (0.0, 99_999.0)


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_errors_at_this_width(page, browse, width, tmp_path):
    picture = tmp_path / "page.png"
    _, errors = browse(page, width, f"--screenshot={picture}")
    assert errors == []
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == width
    assert pixels.std() > 10
    # The same page with a script that measures it: no text or table is wider than the window, no picture is broken.
    measure = (
        "<script>onload = () => { document.body.dataset.found = JSON.stringify([innerWidth, "
        "document.documentElement.scrollWidth, [...document.images].filter(i => !i.naturalWidth).length, "
        "Math.min(...[...document.images].map(i => i.getBoundingClientRect().width)), "
        "[...document.querySelectorAll('.wide')].filter(t => t.scrollWidth > t.clientWidth).length]) }</script></body>"
    )
    probe = tmp_path / "probe.html"
    text = page.read_text().replace("default-src 'none'", "script-src 'unsafe-inline'")
    probe.write_text(text.replace("</body>", measure))
    dom, _ = browse(probe, width, "--dump-dom")
    inner, scroll, broken, narrowest, cut = json.loads(re.search(r'data-found="([^"]*)"', dom)[1])
    assert scroll <= inner
    assert (broken, cut) == (0, 0)
    assert narrowest >= 280


def test_the_browser_would_tell_of_a_request(page, browse, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(page.read_text().replace("<h1>", '<img src="https://localhost:9/x.png"><h1>'))
    _, errors = browse(bad, 1280, "--dump-dom")
    assert any("localhost:9" in line for line in errors)


def test_runs_beside_each_other(runs, tmp_path, capsys):
    out = tmp_path / "sub" / "compare.html"
    assert command.main(["report", "--compare", *map(str, runs), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(out)
    text = out.read_text()
    # 2 + 2/300 against 2 + 1/300, each ± 0.004.
    assert "0.003 ± 0.006" in text
    assert "optim.learning_rate" in text
    assert text.count("data:image/png;base64,") == 2
    run = read_run(str(runs[0]))
    run.reports["300.json"] = bpd_report(300, data_fingerprint="cd" * 32)
    mixed = page_of_runs([read_run(str(runs[1])), run])
    assert "other images" in mixed
    assert "measured on different images" in mixed
    assert "different" not in text


def test_runs_on_two_data_sets_do_not_share_an_axis_unsaid(runs, tmp_path):
    other = make_run(
        tmp_path / "c", **{"data.name": "cifar10", "data.image_shape": [32, 32, 3], "data.num_levels": 256}
    )
    text = page_of_runs([read_run(str(runs[0])), read_run(str(other))])
    assert "These runs are on different data sets: their bits/dim and losses do not compare" in text
    assert "c (cifar10 32x32x3, 256 levels)" in svg(text, "Bits per dimension")


def svg(text, title):
    """The source of a plot of the page."""
    code = re.search(rf'src="data:image/svg\+xml;base64,([^"]*)" alt="{title}"', text)[1]
    return base64.b64decode(code).decode()


def test_every_line_of_a_plot_has_its_name(page):
    text = page.read_text()
    for title, names in {
        "Bits per dimension": ("training", "vdm eval"),
        "The three terms": ("reconstruction", "prior", "diffusion"),
        "End points of gamma": ("gamma(0)", "gamma(1)"),
    }.items():
        drawn = svg(text, title)
        assert all(f">{name}<" in drawn for name in names), title


def test_the_loss_by_noise_level_does_not_fall_to_zero_at_its_ends(runs):
    axes = Figure().subplots()
    assert _noise_levels(axes, [read_run(str(runs[0]))])
    (steps,) = axes.patches
    assert steps.get_path().vertices[:, 1].min() == pytest.approx(0.2)


def test_a_run_that_has_only_begun(tmp_path, capsys):
    run_dir.open_run(str(tmp_path / "run"), configs.load("debug"))
    assert command.main(["report", "--workdir", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "not measured" in text
    assert "There is nothing to draw yet." in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval/100.json", "{}", "100.json is no report"),
        ("eval/100.json", "[", "100.json is damaged"),
        ("eval/100.json", json.dumps({**asdict(bpd_report(100)), "noise_levels": 5}), "100.json is no report"),
        ("eval/100.json", json.dumps({**asdict(bpd_report(100)), "bpd": True}), "bpd is no number"),
        ("eval/100.json", json.dumps({**asdict(bpd_report(100)), "bpd_test_set_stderr": "x"}), "bpd_test_set_stderr"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl, line 1"),
        ("provenance.json", "[]", "provenance.json is damaged"),
        ("tensorboard/events.out.tfevents.0", struct.pack("<QI", 500, 0) + b"\xff" * 504, "tfevents.0 is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_no_page_written(runs, tmp_path, capsys, name, content, message):
    run = shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))
    (run / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert command.main(["report", "--workdir", str(run)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "report.html").exists()


def test_bad_words(runs, tmp_path, capsys):
    assert command.main(["report", "--workdir", str(tmp_path / "none")]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert command.main(["report", "--compare", str(runs[0])]) == 2
    assert "at least two runs" in capsys.readouterr().err
    assert command.main(["report", "--compare", *map(str, runs), "--data", "x"]) == 2
    assert command.main(["report", "--workdir", str(runs[0]), "--data", str(tmp_path)]) == 1
