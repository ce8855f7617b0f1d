"""Names and parts of the generated files."""

import re

from tests.support import c_code


def test_every_name_of_the_files_begins_with_that_of_the_model() -> None:
    code = c_code.code("fastkan-digits").code
    defined = re.findall(r"^(?!\s)(?:[a-z]+ )+\*?(\w+)[\[(].*$", code.text, re.MULTILINE)
    assert len(defined) > 5
    assert all(name.startswith("net_") for name in defined)


def test_only_contributions_need_what_is_guarded() -> None:
    code = c_code.code("pykan-hello-adapted").code
    without = re.sub(r"#ifndef NET_NO_EXPLAIN.*?#endif", "", code.text, flags=re.DOTALL)
    assert "explain" not in without.replace("net_explain(x, contributions)", "")
    assert len(without) < len(code.text)
    assert 0 < code.explain_tables < code.tables
