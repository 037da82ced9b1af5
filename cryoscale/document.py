"""YAML files that people write: read with every key once, refused in a line; and the form of their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from cryoscale.errors import ConfigError


class Written(BaseModel):
    """A part of such a file: no key that is not known, and numbers that are numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses true and false where a number is wanted, for which pydantic takes them."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        wanted = bool in (annotation, *get_args(annotation))
        if not wanted and any(
            isinstance(one, bool) for one in (value if isinstance(value, list) else [value])
        ):
            raise ValueError("what is neither true nor false")
        return value


class _OnceLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML that refuses a key given twice, of which YAML's own loader takes the last without a word.

    Days stay the text that they are: YAML's own loader stumbles over one that the calendar lacks, and would
    have people quote those that it has.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        value = super().construct_scalar(node)
        value.encode()  # half a pair of surrogates, which "\ud800" gives, is neither a name nor an address
        return value

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = key.tag, key.value
            if name in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} again, which line {lines[name]} has",
                    problem_mark=key.start_mark,
                )
            lines[name] = key.start_mark.line + 1
        return node


def read_document(path: Path, what: str) -> Any:
    """What a YAML file holds; ``what`` it is called where it is refused.

    Raises:
        ConfigError: it is absent, no text or no YAML, a mapping in it has a key twice, or a value is not what
            its tag says.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{what} {path} ({reason})", "a readable YAML file", "check the path") from error
    try:
        return yaml.load(text, _OnceLoader)
    except (ValueError, KeyError, RecursionError) as error:  # of a value that is not what its tag says
        raise ConfigError(
            f"{path}: a value that cannot be read ({' '.join(str(error).split())[:120]})",
            "YAML whose values are what they are said to be",
            "correct the file",
        ) from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise ConfigError(
            f"{path}{line}: {getattr(error, 'problem', None) or 'no YAML'}",
            "a YAML mapping with each key once",
            "correct the file",
        ) from error
