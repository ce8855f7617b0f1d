"""YAML config files: configs written by pykan are read, and no tag is executed."""

import itertools
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kanexport.errors import CheckpointError
from kanexport.formats import yaml_config
from kanexport.formats.yaml_config import Tagged

SCALAR = """
grid: !!python/object/apply:numpy.{module}.multiarray.scalar
- !!python/object/apply:numpy.dtype
  args:
  - {code}
  - false
  - true
  state: !!python/tuple
  - 3
  - <
  - null
  - null
  - null
  - -1
  - -1
  - 0
- !!binary |
  {data}
"""


NUMBERS = [("i8", "CgAAAAAAAAA=", 10), ("i4", "/////w==", -1), ("f8", "AAAAAAAA+D8=", 1.5), ("f4", "AADAPw==", 1.5)]


def test_numpy_scalars_under_both_spellings() -> None:
    for module, (code, data, value) in itertools.product(("core", "_core"), [*NUMBERS, ("b1", "AQ==", True)]):
        result = yaml_config.read(SCALAR.format(module=module, code=code, data=data).encode())["grid"]
        assert result == value
        assert type(result) is type(value)
    for code, data in (("i8", "CgAAAA=="), ("c16", "CgAAAAAAAAA="), ("O", "CgAAAAAAAAA=")):  # no numbers
        assert isinstance(yaml_config.read(SCALAR.format(module="core", code=code, data=data).encode())["grid"], Tagged)


def test_scalars_that_share_their_dtype_by_alias() -> None:
    text = SCALAR.format(module="core", code="i8", data="CgAAAAAAAAA=").replace(
        "- !!python/object/apply:numpy.dtype", "- &d !!python/object/apply:numpy.dtype"
    )
    text += "k: !!python/object/apply:numpy.core.multiarray.scalar\n- *d\n- !!binary |\n  AwAAAAAAAAA=\n"
    assert yaml_config.read(text.encode()) == {"grid": 10, "k": 3}


def test_python_tags_become_inert_values() -> None:
    text = """
width: !!python/tuple [2, 3]
fun: !!python/name:torch.tanh ''
act: !!python/object:torch.nn.modules.activation.SiLU {training: true, inplace: false}
other: !unknown [1]
"""
    result = yaml_config.read(text.encode())
    assert result["width"] == (2, 3)
    assert result["fun"] == Tagged("name:torch.tanh", "")
    assert result["fun"].name == "torch.tanh"
    assert result["act"].name == "torch.nn.modules.activation.SiLU"
    assert result["act"].value == {"training": True, "inplace": False}
    assert isinstance(result["other"], Tagged)


ATTACKS = [
    "a: !!python/object/apply:os.system ['touch {canary}']",
    "a: !!python/object/new:os.system ['touch {canary}']",
    "a: !!python/object/apply:subprocess.Popen [[touch, '{canary}']]",
    "a: !!python/object/apply:builtins.eval [\"__import__('os').system('touch {canary}')\"]",
    "a: !!python/object/new:type {{args: [z, !!python/tuple [], {{}}], listitems: ['touch {canary}']}}",
    "a: !!python/module:os ''",
    "? !!python/object/apply:os.system ['touch {canary}']\n: 1",
]


def test_nothing_is_executed(tmp_path: Path) -> None:
    """Python's own loader does run the first one: the canary can appear."""
    canary = tmp_path / "canary"
    for tag in ATTACKS:
        try:
            result = yaml_config.read(tag.format(canary=canary).encode())["a"]
        except CheckpointError:
            assert tag.startswith("?")  # a tagged value cannot be a key
        else:
            assert isinstance(result, Tagged)
        assert not canary.exists()
    yaml.load(ATTACKS[0].format(canary=canary), Loader=yaml.UnsafeLoader)
    assert canary.exists()


def _bomb(first: str, level: str, levels: int) -> bytes:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{at}: &a{at} " + level.replace("*", f"*a{at - 1} ") for at in range(1, levels)]
    return "\n".join(lines).encode()


HOSTILE = {
    "alias bomb": _bomb("[x, x]", "[*, *, *, *, *, *, *, *]", 12),
    "tuple bomb": _bomb("!!python/tuple [x]", "!!python/tuple [*, *, *, *]", 30),
    "tuple bomb as key": _bomb("!!python/tuple [x]", "!!python/tuple [*, *]", 50) + b"\n? *a49\n: 1",
    "merge bomb": _bomb("{x: 1, y: 2}", "{<<: [*, *, *, *]}", 30), "refers to itself": b"a: &a [*a]",
    "refers to itself in a tag": b"a: &a !!python/object:x.y [*a]",
    "refers to itself in a mapping": b"a: &a {b: *a}", "unknown alias": b"a: *b",
    "deep": b"a: " + b"[" * 100 + b"]" * 100, "very deep": b"a: " + b"[" * 100_000,
    "oversized": b"a: " + b"x" * 2**20, "long scalar": b"a: " + b"1" * 5000,
    "long hexadecimal": b"a: 0x" + b"f" * 50_000, "long sexagesimal": b"a: 1" + b":1" * 200_000,
    "a list": b"- 1\n- 2", "a number": b"5", "empty": b"", "two documents": b"a: 1\n---\nb: 2",
    "not text": b"\xff\xfe\x00", "control": b"a: \x00\x07", "empty int": b'a: !!int ""',
    "empty float": b'a: !!float ""', "no bool": b"a: !!bool maybe", "no timestamp": b"a: !!timestamp soon",
    "no date": b"a: 2026-13-45", "no binary": b"a: !!binary 'a'", "list as key": b"? [1]\n: 2",
    "unclosed": b"a: [1, 2", "tab": b"a:\n\t- 1",
}  # fmt: skip


def test_hostile_files_are_refused_quickly() -> None:
    for name, data in HOSTILE.items():
        started = time.process_time()
        with pytest.raises(CheckpointError) as caught:
            yaml_config.read(data)
        assert time.process_time() - started < 2.0, name
        assert "the config" in caught.value.message, name
        assert len(caught.value.message) < 300, name
    with pytest.raises(CheckpointError, match="line 3"):
        yaml_config.read(b"a: 1\nb: 2\nc: [1, }\n")


def test_a_large_honest_config_is_read() -> None:
    names = [["0"] * 20 for _ in range(100)]
    text = yaml.safe_dump({"symbolic.funs_name.0": names, "width": [[40, 0], [200, 0]]})
    assert yaml_config.read(text.encode())["symbolic.funs_name.0"] == names


PUNCTUATION = ["a", ": ", "\n", "- ", "  ", "[", "]", "{", "}", ", ", "&x ", "*x ", "<<: ", "? ", "|\n", ">\n", "'"]
TAGS = ["!!int ", "!!float ", "!!set ", "!!omap ", "!!pairs ", "!!binary ", "!!timestamp ", "!t ", "!!python/tuple "]
TAGS += ['"', "1", "!!python/name:a.b ", "!!python/object/apply:a.b "]
TOKENS = st.sampled_from(PUNCTUATION + TAGS)


@given(st.lists(TOKENS, max_size=20))
def test_no_arrangement_of_tokens_escapes_with_another_error(tokens: list[str]) -> None:
    try:
        result = yaml_config.read(("k: " + "".join(tokens)).encode())
    except CheckpointError:
        return
    assert "k" in result or result
