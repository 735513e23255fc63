"""Where weights come from and under what licence: read beside them, written beside a copy."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from openjanus.config import JanusConfig

CARD_FILE = "README.md"
LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")

RELEASED_LICENCE = (
    "Weights released by DeepSeek, and what is made from them, are under the DeepSeek Model "
    "License: commercial use is allowed, and its limits of use are passed on with every copy."
)

_FORMAT_NAMES = {
    "openjanus": "openjanus",
    "deepseek": "the authors' code (`multi_modality`)",
    "transformers": "transformers (`JanusForConditionalGeneration`)",
    "web": "a page that runs it in a browser (`python3 -m http.server` in this folder)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What is known of some weights."""

    source: str | None = None
    """A hub id, a preset or a folder's name."""
    card: dict[str, str] = field(default_factory=dict)
    """``license``, ``license_name`` and ``license_link`` at the head of their model card."""
    licence_files: tuple[Path, ...] = ()

    @property
    def licence(self) -> str:
        """In a few words, for a table."""
        name = self.card.get("license_name") or self.card.get("license")
        return name or "not stated"


def read_origin(source: str, folder: Path) -> Origin:
    """Read what a folder says of its weights.

    Args:
        source: What the caller asked for.
        folder: Where it lies.
    """
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    found = re.findall(
        r"^(license(?:_name|_link)?): *(.+?) *$", head[1] if head else "", re.MULTILINE
    )
    files = {
        path for pattern in LICENCE_PATTERNS for path in folder.glob(pattern) if path.is_file()
    }
    return Origin(source=source, card=dict(found), licence_files=tuple(sorted(files)))


def write_card(folder: Path, config: JanusConfig, *, layout: str, origin: Origin) -> None:
    """Write a model card, and copy the licences that lie beside the source.

    Args:
        folder: There already.
        config: The model's.
        layout: Whose the folder is.
        origin: Where the weights come from.
    """
    head = origin.card or {"license": "unknown"}
    library = "transformers" if layout == "transformers" else "openjanus"
    names = [f"`{file.name}`" for file in origin.licence_files]
    stated = (
        f"Its source states: {origin.licence}." if origin.card else "Its source states no licence."
    )
    beside = f" Beside this file: {', '.join(names)}." if names else ""
    title = Path(origin.source).name if origin.source else "A Janus"
    # A path of somebody's machine is nobody else's business; a hub id is what it comes from.
    is_path = origin.source is not None and Path(origin.source).exists()
    made_from = f" from `{title if is_path else origin.source}`" if origin.source else ""
    licence = f"{stated}{beside}"
    if any(name in f"{origin.source} {origin.licence}".lower() for name in ("deepseek", "janus")):
        licence += f" {RELEASED_LICENCE}"
    lines = [
        "---",
        *(f"{key}: {value}" for key, value in head.items()),
        f"library_name: {library}",
        "pipeline_tag: any-to-any",
        "tags: [janus, unified-multimodal]",
        "---",
        "",
        f"# {title}",
        "",
        f"A Janus in the layout of {_FORMAT_NAMES[layout]}, written by openjanus{made_from}.",
        "",
        _sizes(config),
        "",
        "## Licence",
        "",
        licence,
        "",
    ]
    (folder / CARD_FILE).write_text("\n".join(lines), encoding="utf-8")
    for file in origin.licence_files:
        shutil.copyfile(file, folder / file.name)


def _sizes(config: JanusConfig) -> str:
    """What the model is, as a list."""
    language = config.language
    quantized = "" if config.quantization is None else f", quantized: {config.quantization}"
    return (
        f"- decoder: {language.num_hidden_layers} layers of {language.hidden_size}, "
        f"{language.num_attention_heads} heads, {language.num_key_value_heads} of keys and values"
        f"{quantized}\n"
        f"- understanding: pictures of {config.und_image_size} px, "
        f"{config.num_und_image_tokens} tokens each\n"
        f"- generation: pictures of {config.gen_image_size} px, {config.num_gen_image_tokens} ids "
        f"each, of {config.codebook_size}\n"
        f"- dialogues: the template `{config.processor.template}`, with the roles "
        f"`{config.processor.user_role}` and `{config.processor.assistant_role}`"
    )
