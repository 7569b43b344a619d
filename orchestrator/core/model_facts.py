"""What clients are told of a model that an instance serves. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from orchestrator.core.catalog import Model
from orchestrator.core.spec import ModelFacts


def facts_of(model: Model, *, sees: bool) -> ModelFacts:
    """Of a model on disk; `sees`: it has a projector for pictures."""
    metadata = model.metadata
    return ModelFacts(
        family=metadata.architecture or "",
        parameters=metadata.parameters or 0,
        quantization=metadata.quantization or "",
        context=metadata.context_length or 0,
        size=model.size_bytes,
        modified=_instant(model.identity.mtime_ns),
        capabilities=_capabilities(model, sees=sees),
    )


def _capabilities(model: Model, *, sees: bool) -> tuple[str, ...]:
    """In Ollama's words. With a template of its own, llama-server has a model call tools."""
    metadata = model.metadata
    if metadata.purpose == "embedding":
        return ("embedding",)
    if metadata.purpose == "reranker":
        return ("rerank",)
    also = (
        ("tools", bool(metadata.chat_template)),
        ("vision", sees),
        ("thinking", bool(metadata.thinking)),
    )
    return ("completion", *(word for word, has in also if has))


def _instant(mtime_ns: int) -> str:
    try:
        moment = datetime.fromtimestamp(mtime_ns // 10**9, UTC)
    except (ValueError, OverflowError):
        return ""
    return moment.isoformat().replace("+00:00", "Z")
