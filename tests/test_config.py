"""Settings from files and flags."""

import msgspec
import pytest

from herd.config import dump, read
from herd.errors import ConfigError
from herd.family import SHAPES, ModelConfig


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate: float = 0.1


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = "x"
    steps: int = 1
    inner: Inner = Inner()
    limit: int | None = None
    words: tuple[str, ...] = ()
    model: ModelConfig | None = None


SHAPE = "[model]\nlayers=2\ndim=64\nffn_dim=128\nheads=4\nkv_heads=2\nhead_dim=16\nvocab=300\n"


def written(tmp_path, text, name="a.toml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_flags_override_the_file(tmp_path):
    file = written(tmp_path, 'name = "run"\nsteps = 3\n[inner]\nrate = 0.5\n')
    assert read(Settings, file, {"steps": 7, "inner.rate": 0.25, "name": None}) == Settings("run", 7, Inner(0.25))
    assert read(Settings, file, values={"steps": 5, "limit": 9}) == Settings("run", 3, Inner(0.5), 9)


@pytest.mark.parametrize(
    "text, word",
    [
        ("stepz = 1", "stepz"), ("steps = 'many'", "steps"), ("steps = '3'", "steps"), ("[inner]\nrate = []", "inner.rate"),
        ("[inner]\nrate = nan", "inner.rate is nan"), ("[inner]\nrat = 1", "inner.rat"), ("a = ", "TOML"), (SHAPE + "dimm = 3", "model.dimm"), (SHAPE + "context = 0", "context"),
        ("a = " + "[" * 5000, "TOML"), ("base = 3", "base"), ("base = 'a.toml'", "leads back"), ("base = 'none.toml'", "none.toml"),
    ],
)  # fmt: skip
def test_errors_name_the_key(tmp_path, text, word):
    with pytest.raises(ConfigError, match=word):
        read(Settings, written(tmp_path, text))


def test_files_that_never_end_or_lead_nowhere_are_one_line(tmp_path):
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    written(tmp_path, 'base = "a\\u0000b"', "nul.toml")
    for i in range(40):
        written(tmp_path, f"base = '{i + 1}.toml'", f"{i}.toml")
    for file, word in (("/dev/zero", "larger than 16 MiB"), ("loop.toml", "cannot be read"), ("nul.toml", "null byte"), ("0.toml", "more than 32")):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            read(Settings, tmp_path / file)


def test_flags_are_lax_and_files_strict():
    assert read(Settings, None, {"steps": "3", "inner.rate": "1", "limit": "4"}) == Settings(
        steps=3, inner=Inner(1.0), limit=4
    )
    for flags, word in (
        ({"steps": "many"}, "steps is 'many'"), ({"stepz": 1}, "stepz"), ({"inner.rat": 1}, "inner.rat"), ({"name.x": 1}, "name"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            read(Settings, None, flags, values={"name": "run"})
    with pytest.raises(ConfigError, match="steps"):
        read(Settings, values={"steps": "3"})


def test_a_base_is_the_start_of_a_file(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path, "steps = 3\n[inner]\nrate = 0.5\n", "deep/first.toml")
    written(tmp_path, "base = 'first.toml'\nname = 'second'\n", "deep/second.toml")
    file = written(tmp_path, "base = 'deep/second.toml'\nsteps = 4\n")
    assert read(Settings, file) == Settings("second", 4, Inner(0.5))


def test_what_is_dumped_is_read_back(tmp_path):
    settings = Settings('a "b"\n', 2, Inner(1e-7), 5, ("x", "y"), SHAPES["llama-3.1-8b"])
    assert read(Settings, written(tmp_path, dump(settings))) == settings
    assert read(Settings, written(tmp_path, dump(Settings()))) == Settings()


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read(Settings, tmp_path / "none.toml")


def test_keys_that_are_numbers_are_read_from_text():
    from herd.engine.request import SamplingParams

    for bias in ({"5": 1.0}, {5: 1.0}):
        assert read(SamplingParams, values={"logit_bias": bias}).logit_bias == {5: 1.0}


def test_none_within_a_tuple_of_sections_is_left_out(tmp_path):
    class Stage(msgspec.Struct, frozen=True):
        after: int
        length: int | None = None

    class Settings(msgspec.Struct, frozen=True):
        stages: tuple[Stage, ...] = ()

    settings = Settings((Stage(1), Stage(2, 3)))
    (tmp_path / "s.toml").write_text(dump(settings))
    assert read(Settings, tmp_path / "s.toml") == settings
