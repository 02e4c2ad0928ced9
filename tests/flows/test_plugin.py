import socket
import sys

import pytest

import configs
from flows import plugin


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["prefect", *words])
    plugin.setup_environment(ctx=None)
    return sys.argv[1:]


def test_the_bare_name_becomes_the_full_one(monkeypatch):
    assert run(monkeypatch, "deployment", "run", "vdm-train") == ["deployment", "run", "vdm-train/vdm-train"]
    words = ["deployment", "run", "-p", "experiment=debug", "vdm-eval", "--watch"]
    assert run(monkeypatch, *words)[4] == "vdm-eval/vdm-eval"


@pytest.mark.parametrize(
    "words",
    [
        ("deployment", "run", "vdm-train/vdm-train"),
        ("deployment", "run", "other"),
        ("deployment", "inspect", "vdm-train"),
        ("deployment", "run", "--job-variable", "vdm-x", "other/other"),
        (),
    ],
)
def test_everything_else_is_left_as_it_is(monkeypatch, words):
    assert run(monkeypatch, *words) == list(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-p", "experiment=digit"), "did you mean 'digits'"),
        (("--param", 'overrides={"model.n_emb": 64}'), "did you mean 'model.n_embd'"),
        (("--params", '{"experiment": "debug", "overrides": {"train.step": 1}}'), "did you mean 'train.steps'"),
        (("-p", 'overrides={"model.n_embd": 7}'), "n_embd must be"),
        (("-p", "overrides=model.n_embd=64"), "JSON object"),
    ],
)
def test_a_wrong_config_is_refused_with_the_nearest_right_name(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "deployment", "run", "vdm-train", *words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_down_is_one_line(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with socket.socket() as taken:
        # Nobody listens there, and nobody can begin to.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            pytest.raises(SystemExit) as end,
        ):
            run(monkeypatch, "deployment", "run", "vdm-train")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert f"the server {url} does not answer (ConnectError): start it" in error
    assert error.count("\n") == 1


def test_the_server_knows_the_same_names_by_the_form_of_the_flow():
    """Where the plugin is not switched on, the server's own check of the schema refuses before a run is made."""
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import validate

    from flows.train import vdm_train

    schema = parameter_schema(vdm_train).model_dump_for_openapi()
    validate({"experiment": "debug", "overrides": {"model.n_embd": 64}}, schema, raise_on_error=True)
    for given in ({"experiment": "digit"}, {"overrides": {"model.n_emb": 64}}, {"launcher": "slurm"}):
        assert validate(given, schema, raise_on_error=False)


def test_overrides_of_the_form_are_those_of_every_config():
    for name in configs.NAMES:
        configs.load(name, {"train.steps": 10})
    assert "train.steps" in configs.override_keys()
