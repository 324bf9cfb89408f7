"""Settings: what is accepted, what is refused, and that every refusal says what to do."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metarl import config, yaml12
from metarl.config import ConfigError

ROOT = Path(__file__).parent.parent
SMALLEST = """\
iterations: 3
problem: {kind: rl, env: "envs:X-v0", horizon: 5, episodes: 2}
inner: {lr: 0.1}
outer: {method: trpo}
"""


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "a.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refusal(path: Path | str, *overrides: str) -> str:
    """The sentence: one line, ended like a sentence, without the name of a library behind it."""
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence[-1] in ".?"
    assert "pydantic" not in sentence
    return sentence


def test_defaults_are_the_design_ones(write):
    read = config.load(write(SMALLEST))
    assert (read.seed, read.device, read.threads) == (1, "auto", "auto")
    assert (read.problem.discount, read.problem.gae_lambda) == (0.99, 1.0)
    assert (read.network.hidden_sizes, read.network.activation) == ((100, 100), "relu")
    assert (read.inner.steps, read.inner.estimator, read.inner.first_order) == (1, "lvc", False)
    assert (read.outer.tasks, read.outer.max_kl, read.outer.cg_damping) == (40, 0.01, 1e-5)
    assert (read.evaluation.steps, read.evaluation.lr, read.evaluation.episodes) == (3, None, None)
    assert (read.run.directory, read.run.keep) == ("runs", 3)


def test_settings_never_change(write):
    read = config.load(write(SMALLEST))
    with pytest.raises(ValidationError):
        read.inner.lr = 1.0


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("explain", [False, True])
def test_presets_round_trip_and_name_their_source(path, explain, write):
    read = config.load(path)
    assert config.load(write(config.dump(read, explain))) == read
    assert "arXiv" in path.read_text().split("iterations:")[0]


values = (
    st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdefgh_ .:#-'\"1{}", min_size=1), values | st.lists(values, max_size=3)
    )
)
def test_any_plain_value_round_trips_with_its_type(kwargs):
    back = yaml12.parse(yaml12.render(kwargs))
    assert back == kwargs
    assert list(map(repr, back.items())) == list(map(repr, kwargs.items()))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_no_text_gets_past_the_reader_as_another_error(text):
    with contextlib.suppress(yaml12.YAMLTextError):
        yaml12.parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        (".5", 0.5),
        ("on", "on"),
        ("no", "no"),
        ("010", 10),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("[1, 2.0, true]", [1, 2.0, True]),
    ],
)
def test_yaml_is_version_1_2(text, value):
    read = yaml12.parse(text)
    assert read == value
    assert type(read) is type(value)


def test_overrides_replace_add_and_come_last(write):
    path = write(SMALLEST)
    read = config.load(
        path,
        [
            "inner.lr=5e-2",
            "network.hidden_sizes=[8]",
            "problem.env_kwargs.preset=gym",
            "seed=1",
            "seed=2",
        ],
    )
    assert read.inner.lr == 0.05
    assert read.network.hidden_sizes == (8,)
    assert read.problem.env_kwargs == {"preset": "gym"}
    assert read.seed == 2
    assert config.load(path, ["outer={method: ppo}"]).outer.method == "ppo"


def test_whole_numbers_serve_as_floats_and_become_them(write):
    read = config.load(write(SMALLEST), ["inner.lr=1", "evaluation.lr=[1, 2, 3]"])
    assert isinstance(read.inner.lr, float)
    assert read.evaluation.lr == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=true", "seed is true, but must be a whole number"),
        ("seed=1.0", "seed is 1.0, but must be a whole number"),
        ("seed=-1", "seed is -1, but must be at least 0"),
        ("seed=4294967296", "seed is 4294967296, but must be at most 4294967295"),
        ("iterations=0", "iterations is 0, but must be at least 1"),
        ("iterations=", "iterations is null, but must be a whole number"),
        ("inner.lr=true", "inner.lr is true, but must be a finite number"),
        ("inner.lr='1e-3'", 'inner.lr is "1e-3", but must be a finite number without quotes'),
        ("inner.lr=.nan", "inner.lr is NaN, but must be a finite number"),
        ("inner.lr=-.inf", "inner.lr is -Infinity, but must be a finite number"),
        ("inner.lr=1e999", "inner.lr is Infinity, but must be a finite number"),
        (f"inner.lr={'9' * 400}", "but must be a finite number"),
        (f"inner.lr={'9' * 9000}", "is no number that can be read"),
        ("inner.lr=0", "inner.lr is 0, but must be above 0"),
        ("inner.first_order=1", "inner.first_order is 1, but must be true or false"),
        ("inner.estimator=lvs", "inner.estimator is \"lvs\", but must be 'reinforce', 'lvc',"),
        ("problem.discount=0", "problem.discount is 0, but must be above 0"),
        ("problem.gae_lambda=1.1", "problem.gae_lambda is 1.1, but must be at most 1"),
        (
            "problem.kind=qq",
            "problem.kind is \"qq\", but must be one of 'rl', 'sinusoid', 'images'",
        ),
        ("problem.env=HalfCheetah", "must be module:Name-v0, such as envs:HalfCheetahVel-v0"),
        (
            "problem.env_kwargs.a={}",
            "problem.env_kwargs.a is {}, but must be a finite number, text",
        ),
        ("problem.env_kwargs.a=[1, .nan]", "problem.env_kwargs.a is [1, NaN], but must be"),
        ("problem.env_kwargs=1", "problem.env_kwargs is 1, but must be a section"),
        ("threads=0", "threads is 0, but must be 'auto' or at least 1"),
        ("threads=many", "threads is \"many\", but must be 'auto' or a whole number"),
        ("network.hidden_sizes=8", "network.hidden_sizes is 8, but must be a list, such as [1, 2]"),
        ("network.hidden_sizes=[8, 0]", "network.hidden_sizes.1 is 0, but must be at least 1"),
        ("network.min_std=2", "network.min_std is 2, but must be at most network.initial_std, 1.0"),
        ("outer.method=trop", "outer.method is \"trop\", but must be one of 'trpo', 'vpg', 'ppo'"),
        ("outer={}", "outer.method is missing; add it: How"),
        ("outer=3", "outer is 3, but must be a section"),
        ("outer.backtrack_ratio=1", "outer.backtrack_ratio is 1, but must be below 1"),
        ("inner=[]", "inner is [], but must be a section"),
        ("evaluation.lr=[]", "evaluation.lr is [], but must be a list that is not empty"),
        ("evaluation.lr=[1]", "evaluation.lr is [1], but must hold one rate for each of the 3"),
        ("evaluation.lr=[1, -2, x]", "evaluation.lr.1 is -2, but must be above 0"),
        ("run.directory=''", 'run.directory is "", but must be text that is not empty'),
        ("inner.lrr=1", "inner.lrr is not a setting; did you mean inner.lr?"),
        ("outer.max_k=1", "outer.max_k is not a setting; did you mean outer.max_kl?"),
        ("max_kl=1", "max_kl is not a setting; did you mean outer.max_kl?"),
        ("problm.horizon=1", "problm is not a setting; did you mean problem?"),
        ("outer.clip=0.2", "outer.clip is not a setting; it belongs to another kind of outer"),
        ("zzz=1", "zzz is not a setting; take it out; there are seed, device"),
        ("inner.lr.x=1", "inner.lr.x cannot be set, because inner.lr is 0.1"),
        ("seed", '"seed" is not a setting; write KEY=VALUE'),
        ("=1", '"=1" is not a setting; write KEY=VALUE'),
        ("a..b=1", '"a..b=1" is not a setting; write KEY=VALUE'),
        ("inner.lr=[1", "inner.lr: line 1: this is not YAML"),
        ("inner={lr: 1, lr: 2}", "inner: line 1: lr stands twice; keep one"),
        ("a\nb=1", '"a\\U0000000ab" is not a setting'),
        ("iterations.a\nb=1", '"iterations.a\\U0000000ab" cannot be set, because iterations is 3'),
        ("a\nb=[1", '"a\\U0000000ab": line 1: this is not YAML'),
        ('inner={"a\\nb": 1, "a\\nb": 2}', '"a\\U0000000ab" stands twice'),
        ('seed="\\u2028"', 'seed is "\\u2028", but'),
    ],
)
def test_a_wrong_override_is_one_sentence_about_the_command_line(write, override, said):
    sentence = refusal(write(SMALLEST), override)
    assert sentence.startswith("command line: ")
    assert said in sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- 1\n", "holds a list at the top"),
        ("text\n", "holds a single value at the top"),
        ("a:\n\tb: 1\n", "line 2: a tab where YAML wants spaces; indent with spaces"),
        ("seed: 1\nseed: 1\n", "line 2: seed stands twice; keep one"),
        ("inner:\n  lr: 1\n  'lr': 2\n", "line 3: inner.lr stands twice; keep one"),
        ("a: &x 1\nb: *x\n", "line 1: anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: tags (!) are not read"),
        ("%YAML 1.1\n---\na: on\n", "%YAML is not read"),
        ("a: 1\n---\nb: 2\n", "line 2: this is not YAML"),
        ("[" * 5000, "nested deeper than 16 levels"),
        ("1: x\n", "line 1: a key that is not text"),
        ("? [a]\n: 1\n", "line 1: a key that is not text"),
        ("<<: {seed: 1}\n", "<< is not a setting"),
        ("a: \0\n", "this is not YAML"),
        (b"a: \xff\n", "byte 3 is not UTF-8 text"),
        ("x" * 70_000, "larger than 65536 bytes"),
        (
            SMALLEST.replace("iterations: 3\n", ""),
            "iterations is missing; add it: Meta-iterations.",
        ),
        (SMALLEST.replace("lr: 0.1", "learning_rate: 0.1"), "inner.learning_rate is not a setting"),
        (
            SMALLEST.replace("lr: 0.1", "lr: '0.1'"),
            'inner.lr is "0.1", but must be a finite number',
        ),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(write, content, said):
    path = write(content)
    sentence = refusal(path)
    assert sentence.startswith(f"{path}: ")
    assert said in sentence


def test_a_path_that_cannot_be_read_is_one_sentence(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "no.yaml")
    assert "this is a folder" in refusal(tmp_path)
    assert "cannot be read" in refusal("a\0b")
    assert "larger than" in refusal("/dev/zero")


def test_the_file_is_blamed_for_what_it_says_and_the_command_line_for_the_rest(write):
    path = write(SMALLEST.replace("lr: 0.1", "lr: 0"))
    assert refusal(path, "seed=2").startswith(f"{path}: inner.lr")
    assert refusal(path, "seed=-2", "inner.lr=1").startswith("command line: seed")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["inner.learn_rates=true", "inner.steps=0"], "inner.learn_rates"),
        (["inner.learn_rates=true", "evaluation.lr=[1, 1, 1]"], "evaluation.lr"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(write, overrides, key):
    path = write(SMALLEST)
    for override in overrides:
        config.load(path, [override])
    assert refusal(path, *overrides).startswith(f"command line: {key} is ")


def test_reading_settings_is_quick_to_start():
    """Settings are read, and refused, before torch and Gymnasium take their seconds to load."""
    code = "import sys, metarl.config; print({'torch', 'gymnasium', 'numpy'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
