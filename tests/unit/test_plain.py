"""What leaves for an agent can steer no terminal, and tells no secret."""

from __future__ import annotations

import pytest

from orchestrator.cli.mcp_server.plain import lines_without_secrets, plain, tidy, without_secrets


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain text\n\tindented", "plain text\n\tindented"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1;2q data\x1b\\after", "after"),
        ("\x1b(Bafter\x1b7", "after"),
        ("\x9b31mred", "red"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a\x00b\x08c\x7f", "a\ufffdb\ufffdc\ufffd"),
        ("\x1b\nat the end\x1b", "\ufffd\nat the end\ufffd"),
        ("abc\u202edcba", "abc\ufffddcba"),
        ("\udcff", "\ufffd"),
        ("Zwölf 猫 👩\u200d💻 ﷺ", "Zwölf 猫 👩\u200d💻 ﷺ"),
    ],
)
def test_escapes_go_and_text_stays(said: str, shown: str) -> None:
    assert plain(said) == shown
    assert tidy({said: [said, 7, None]}) == {shown: [shown, 7, None]}
    plain(said).encode()


PROFILE = """\
# A comment about the API_KEY stays.
instances:
  a:
    model: tiny   # and so does this
    env: {LLAMA_API_KEY: s3cret-1, PLAIN: yes}
    args: [--api-key, s3cret-2, --alias, x, --api-key=s3cret-3]
  b:
    model: tiny
    env:
      HF_TOKEN: "s3cret-4"
      OTHER_TOKEN: ${env:OTHER_TOKEN}
      DEFAULTED_TOKEN: ${env:OTHER:-s3cret-5}
      LONG_SECRET: |
        s3cret-6
        s3cret-7
      EMPTY_TOKEN:
    flags: {ssl-key-file: key.pem}
"""


def test_values_of_secret_keys_are_hidden_and_all_else_is_as_written() -> None:
    shown = without_secrets(PROFILE)

    assert "s3cret" not in shown
    assert shown.count("***") == 6
    kept = [line for line in PROFILE.splitlines() if "s3cret" not in line and "LONG" not in line]
    assert [line for line in shown.splitlines() if "***" not in line] == kept


def test_what_is_no_yaml_is_hidden_line_by_line() -> None:
    broken = "instances: [\n  LLAMA_API_KEY: s3cret\n  'HF_TOKEN': s3cret\nmodel: tiny\n"
    assert without_secrets(broken) == lines_without_secrets(broken)
    assert lines_without_secrets(broken) == (
        "instances: [\n  LLAMA_API_KEY: ***\n  'HF_TOKEN': ***\nmodel: tiny\n"
    )
