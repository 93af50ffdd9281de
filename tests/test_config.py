import msgspec
import pytest

from herd.config import read
from herd.errors import ConfigError


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate: float = 0.1


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = "x"
    steps: int = 1
    inner: Inner = Inner()


def test_flags_override_the_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('name = "run"\nsteps = 3\n[inner]\nrate = 0.5\n')
    assert read(Settings, file, {"steps": 7, "inner.rate": 0.25, "name": None}) == Settings("run", 7, Inner(0.25))


@pytest.mark.parametrize(
    "text, word",
    [("stepz = 1", "stepz"), ("steps = 'many'", "steps"), ("[inner]\nrate = []", "inner.rate"), ("a = ", "TOML")],
)
def test_errors_name_the_key(tmp_path, text, word):
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=word):
        read(Settings, file)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read(Settings, tmp_path / "none.toml")
