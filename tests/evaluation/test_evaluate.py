import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.maps import zero_phase_map
from phaseray.evaluation import figures
from phaseray.evaluation.diagnostics import mean_predictions, poster_diagnostics
from phaseray.evaluation.evaluate import ZERO_PHASES, Sample, evaluate_predictions
from phaseray.evaluation.metrics import align, half_grid_of
from phaseray.evaluation.observations import sentences
from phaseray.evaluation.periodic import shortest
from phaseray.evaluation.reciprocal import within_resolution
from phaseray.evaluation.report import Captioned, write_report
from phaseray.evaluation.sections import PLANES, section

SHAPE = (12, 14, 16)


def sample(seed, space_group="P 1"):
    rng = np.random.default_rng(seed)
    cell = (5.0, 6.0, 7.0, 80.0, 95.0, 105.0)
    numbers = np.array([9, 8, 8, 6, 6, 1])
    positions = rng.random((1, 3))
    while len(positions) < len(numbers):
        x = rng.random(3)
        if shortest(x - positions, cell).min() > 1.5:
            positions = np.vstack([positions, x])
    points = np.stack(np.meshgrid(*(np.arange(n) / n for n in SHAPE), indexing="ij"), -1)
    rho = sum(
        z * np.exp(-0.5 * (shortest(points - x, cell) / 0.45) ** 2) for x, z in zip(positions, numbers, strict=True)
    )
    volume = np.linalg.det(orthogonalization_matrix(cell))
    F = half_grid_of(rho, volume)
    F = np.where(within_resolution(cell, SHAPE, 1.0), F, 0)
    F[0, 0, 0] = rho.mean() * volume
    density = np.fft.irfftn(F.conj(), s=SHAPE, axes=(0, 1, 2)) * rho.size / volume
    return Sample(f"made-{seed}", "C2 H F O2", cell, numbers, positions, abs(F), density, 1.0, space_group)


@pytest.fixture(scope="module")
def crystals():
    return [sample(0), sample(1, "P -1"), sample(2, None), sample(3, "no such group")]


@pytest.fixture(scope="module")
def evaluation(crystals):
    moved = [align(np.asarray(c.density), (3, 5, 7), True).astype(np.float32) for c in crystals]
    broken = [np.full(SHAPE, np.nan), *(np.zeros(SHAPE) for _ in crystals[1:])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate_predictions(crystals, {"truth elsewhere": moved, "broken": broken})


def test_the_truth_on_another_origin_and_hand_is_perfect(evaluation, crystals):
    for s in evaluation.of("truth elsewhere"):
        assert s.map_cc == pytest.approx(1, abs=1e-6)
        assert s.phase_error == pytest.approx(0, abs=0.1)
        assert s.r_factor == pytest.approx(0, abs=1e-5)
        assert s.patterson_cc == pytest.approx(1, abs=1e-6)
        assert (s.atoms_found, s.n_sites) == (1.0, 5)
        assert s.solved
        assert s.mse > 0.1  # as it stands, on another origin
    first, second, unknown, nonsense = evaluation.of("truth elsewhere")
    assert first.map_cc_strict == pytest.approx(1, abs=1e-6)
    assert second.map_cc_strict < 0.9
    assert unknown.map_cc_strict is None
    assert nonsense.map_cc_strict is None


def test_zero_phases_are_always_judged_and_come_first(evaluation, crystals):
    assert evaluation.models == (ZERO_PHASES, "truth elsewhere", "broken")
    for s in evaluation.of(ZERO_PHASES):
        assert s.r_factor == pytest.approx(0, abs=1e-9)
        assert s.patterson_cc == pytest.approx(1)
        assert s.trivial == (s.map_cc >= 0.7)
    c = crystals[0]
    rho = zero_phase_map(c.amplitude, c.shape, c.volume)
    assert rho.argmax() == 0
    np.testing.assert_allclose(rho, align(rho, (0, 0, 0), True), atol=1e-9)
    assert rho.mean() == pytest.approx(np.mean(c.density))


def test_maps_that_are_not_finite_or_constant_have_scores_without_nan(evaluation):
    summary = evaluation.summaries["broken"]
    assert (summary.n, summary.not_finite, summary.solved) == (4, 1, 0)
    assert summary.mean["map_cc"] == 0
    assert summary.mean["phase_error"] == 90
    assert summary.mean["r_factor"] == 1
    json.dumps(evaluation.as_dict(), allow_nan=False)


def test_summaries_are_means_over_all_and_over_those_not_trivial(evaluation):
    scores = evaluation.of(ZERO_PHASES)
    summary = evaluation.summaries[ZERO_PHASES]
    assert summary.mean["map_cc"] == pytest.approx(np.mean([s.map_cc for s in scores]))
    assert summary.median["map_cc"] == pytest.approx(np.median([s.map_cc for s in scores]))
    assert summary.n_nontrivial == sum(not s.trivial for s in scores)
    assert evaluation.n_trivial == sum(s.trivial for s in scores)


def test_crystals_whose_true_map_hides_atoms_are_counted(crystals, evaluation):
    assert evaluation.n_solvable == 4
    c = crystals[0]
    hidden = Sample("h", "H", c.cell, np.full(8, 6), np.random.default_rng(9).random((8, 3)), c.amplitude, c.density, 1)
    assert evaluate_predictions([hidden], {}).n_solvable == 0


def test_predictions_that_do_not_fit_the_crystals_are_refused(crystals):
    with pytest.raises(ValueError, match="2 predictions for 4 crystals"):
        evaluate_predictions(crystals, {"m": [np.zeros(SHAPE)] * 2})
    with pytest.raises(ValueError, match="made-0"):
        evaluate_predictions(crystals, {"m": [np.zeros((4, 4, 4))] * 4})
    with pytest.raises(ValueError, match="half grid"):
        Sample("x", "C", (5, 5, 5, 90, 90, 90), [6], [[0, 0, 0]], np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), 1.0)


def test_progress_is_told_once_a_crystal(crystals):
    told = []
    evaluate_predictions(crystals[:2], {}, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]


def test_no_crystals_give_an_empty_evaluation():
    empty = evaluate_predictions([], {"m": []})
    assert empty.summaries["m"].mean["map_cc"] is None


# -- figures ---------------------------------------------------------------------------------


def test_a_section_holds_the_grid_points_it_passes_through(crystals):
    c = crystals[0]
    cut = section(c.density, c.cell, c.positions, (3, 4, 5), PLANES[1])
    step_u, step_v = ((n - 1) // m for n, m in zip(cut.values.shape, (SHAPE[0], SHAPE[2]), strict=True))
    np.testing.assert_allclose(cut.values[:-1:step_u, :-1:step_v], np.asarray(c.density)[:, 4, :], atol=1e-9)
    corner = orthogonalization_matrix(c.cell) @ [1, 0, 1]
    assert np.hypot(cut.x[-1, -1], cut.y[-1, -1]) == pytest.approx(np.linalg.norm(corner))


def test_atoms_near_a_section_are_drawn_at_the_foot_of_their_perpendicular():
    cell = (6.0, 7.0, 8.0, 75.0, 100.0, 118.0)
    M = orthogonalization_matrix(cell)
    normal = np.cross(M[:, 0], M[:, 1])
    normal /= np.linalg.norm(normal)
    in_plane = np.array([0.4, 0.3, 0.25])
    lifted = in_plane + np.linalg.inv(M) @ (0.5 * normal)
    cut = section(np.zeros((8, 8, 8)), cell, [in_plane, lifted, [0.4, 0.3, 0.7]], (0, 0, 2), PLANES[0])
    assert cut.atoms.tolist() == [0, 1]
    assert cut.atoms_x[0] == pytest.approx(cut.atoms_x[1])
    assert cut.atoms_y[0] == pytest.approx(cut.atoms_y[1])


@pytest.fixture(scope="module")
def drawn(crystals, evaluation):
    c = crystals[1]
    maps = {ZERO_PHASES: evaluation.zero_phase_maps[1], "constant": np.ones(SHAPE), "broken": np.full(SHAPE, np.nan)}
    history = [{"epoch": e, "train/loss": 2.0 / (e + 1), "val/loss": None} for e in range(20)]
    means = mean_predictions(evaluation.zero_phase_maps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = {
            "sections": figures.sections_figure(c.density, maps, c.cell, c.positions, c.numbers, title=c.id),
            "raw": figures.sections_figure(c.density, {"m": c.density}, c.cell, c.positions, c.numbers, aligned=False),
            "loss": figures.loss_curves_figure({"m": history, "none": [], "nan": [{"epoch": 0, "train/loss": np.nan}]}),
            "histogram": figures.map_cc_histogram_figure(evaluation.scores),
            "empty histogram": figures.map_cc_histogram_figure([]),
            "mean": figures.mean_prediction_figure({str(shape): rho for shape, rho in means.items()}),
        }
        return {name: (figure, figures.to_png(figure, dpi=40)) for name, figure in made.items()}


def test_figures_are_drawn_without_a_warning_and_without_pyplot(drawn):
    import sys

    for figure, png in drawn.values():
        assert isinstance(figure, Figure)
        assert png.startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_figures_say_that_predictions_were_moved(drawn):
    texts = [t.get_text() for axes in drawn["sections"][0].axes for t in axes.texts]
    assert texts[0] == "truth"
    assert re.search(r"zero phases  \((inverted and )?moved to fit the truth best, map_cc 0\.\d\d\)", texts[1])


@pytest.mark.parametrize("cell", [(5, 6, 7, 80, 95, 105), (20, 4, 4, 90, 90, 90), (4, 20, 4, 90, 90, 120)])
def test_section_images_are_rgb_of_the_height_asked_for(cell):
    rho = np.random.default_rng(0).random((8, 8, 8))
    atoms = ([[0, 0, 0], [0.5, 0.5, 0.5]], [6, 8])
    for image in (
        figures.section_image(rho, cell, *atoms, pixels=200),
        figures.comparison_image(rho, -rho, cell, *atoms, aligned=True, pixels=200),
    ):
        assert image.dtype == np.uint8
        assert image.shape[0] == 200
        assert image.shape[2] == 3
        assert image.std() > 1


# -- report ----------------------------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]


@pytest.fixture
def page(tmp_path, crystals, evaluation, drawn):
    args = [[getattr(c, k) for c in crystals] for k in ("density", "cell", "positions", "numbers")]
    diagnostics = {
        ZERO_PHASES: poster_diagnostics(evaluation.zero_phase_maps, *args),
        "broken": poster_diagnostics([np.full(SHAPE, np.nan)] * 4, *args),
    }
    told = {m: sentences(d, diagnostics[ZERO_PHASES]) for m, d in diagnostics.items()}
    path = write_report(
        tmp_path / "new" / "report.html",
        "<script>alert(1)</script>",
        evaluation,
        diagnostics,
        [Captioned(drawn["loss"][0], 'a "quoted" <caption>'), Captioned(drawn["mean"][1], "bytes")],
        told,
        {"command": "phaseray demo <x>", "seed": 0, "config digest": "0123"},
        paragraphs=["R & D <i>"],
        limits=["one limit more"],
    )
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_report_holds_all_it_shows(page):
    links = Links()
    links.feed(page)
    assert len(links.found) == 2
    assert all(v.startswith("data:image/png;base64,") for v in links.found)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert "url(" not in page
    assert "@import" not in page


def test_text_in_the_report_is_shown_and_not_obeyed(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "R &amp; D &lt;i&gt;" in page
    assert "phaseray demo &lt;x&gt;" in page
    assert "<caption>" not in page


def test_the_report_says_what_was_found(page):
    assert "4 crystals judged" in page
    assert "truth elsewhere: 4 of 4 solved" in page
    assert "one limit more" in page
    assert "1 map not finite" in page
    assert page.count('class="verdict"') == 12
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|\bNone\b|\{\{|\{%", shown)


def test_a_failed_report_leaves_the_old_one(tmp_path, evaluation):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_report(path, "t", evaluation, {}, [Captioned("no figure", "c")], {}, {})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
