"""The flags of the embedded engine: a named subset of llama-server's, with the same spellings.

Each row is an entry of the help and what the flag does. A flag that cannot be mapped is left out:
being refused is better than being ignored. Spellings, placeholders and defaults are llama-server's
own, so that a profile moves between the two unchanged, and the help has its layout, so that it is
read by the same parser.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.engines.embedded_apply import (
    Apply,
    both,
    enum,
    folder,
    gpu_layers,
    key_file,
    lora,
    nothing,
    on_off,
    real,
    rerank,
    rope_scale,
    sampled,
    seed,
    switch,
    template_arguments,
    template_file,
    tensor_split,
    text,
    verbose,
    whole,
    words,
)

_TEXT_COLUMN = 40


class Row(NamedTuple):
    """One entry of the help. `head` holds the spellings, then the placeholder of the value."""

    head: str
    text: str
    apply: Apply

    @property
    def names(self) -> list[str]:
        """Every spelling, dashes included."""
        return [word.rstrip(",") for word in self.head.split() if word.startswith("-")]

    @property
    def takes_value(self) -> bool:
        """False for a switch."""
        return not self.head.split()[-1].startswith("-")

    def negates(self, name: str) -> bool:
        """True for the spellings of a switch that turn it off: they follow the positive ones."""
        positive = [name for name in self.names if name[:2] == "--" and name[:5] != "--no-"]
        return bool(positive) and self.names.index(name) > self.names.index(positive[-1])


def help_text() -> str:
    """The help in llama-server's layout: heads from column 0, texts from column 40."""
    lines = ["----- embedded engine params -----", ""]
    for row in ROWS:
        first, *rest = row.text.split("\n")
        if len(row.head) > _TEXT_COLUMN - 3:
            lines.append(row.head)
            lines.append(" " * _TEXT_COLUMN + first)
        else:
            lines.append(row.head.ljust(_TEXT_COLUMN) + first)
        lines += [" " * _TEXT_COLUMN + more for more in rest]
    return "\n".join(lines) + "\n"


def _members(prefix: str, names: str, **others: str) -> dict[str, str]:
    """Words and the members of an enumeration that they stand for."""
    found = {name: prefix + name.upper().replace("-", "_") for name in names.split()}
    return found | {word: prefix + member for word, member in others.items()}


_CACHE_TYPES = _members("GGML_TYPE_", "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
_CACHE_HELP = f"allowed values: {', '.join(_CACHE_TYPES)}\n(default: f16)"
_LOAD_MODES = _members("LLAMA_LOAD_MODE_", "auto none mmap mlock", dio="DIRECT_IO") | {
    "mmap+mlock": "LLAMA_LOAD_MODE_MMAP_MLOCK"
}
_LAZY_MODES = _members("LLAMA_LAZY_MODE_", "on auto off")
_NUMA = _members("GGML_NUMA_STRATEGY_", "distribute isolate numactl")
_REASONING = _members("COMMON_REASONING_FORMAT_", "none auto deepseek deepseek-legacy")
_ROPE = _members("LLAMA_ROPE_SCALING_TYPE_", "none linear yarn")
_SPLIT = _members("LLAMA_SPLIT_MODE_", "none layer row tensor")
_POOLING = _members("LLAMA_POOLING_TYPE_", "none mean cls last rank")
_FLASH = _members("LLAMA_FLASH_ATTN_TYPE_", "auto", on="ENABLED", off="DISABLED")


def _bullets(members: dict[str, str]) -> str:
    return "".join(f"\n- {word}: as in llama-server" for word in members)


# fmt: off
_GENERAL = (
    Row("-h,    --help, --usage", "print usage and exit", nothing),
    Row("--version", "show version and build info", nothing),
    Row("-lv,   --verbosity, --log-verbosity N", "log threshold (default: 3)", whole("verbosity")),
    Row("-v,    --verbose, --log-verbose", "log all messages", verbose),
)

_LOADING = (
    Row("-t,    --threads N", "CPU threads for generation (default: -1)",
        whole("cpuparams.n_threads")),
    Row("-tb,   --threads-batch N", "CPU threads for prompts (default: same as --threads)",
        whole("cpuparams_batch.n_threads")),
    Row("--poll <0...100>", "polling level to wait for work", whole("cpuparams.poll")),
    Row("-ngl,  --gpu-layers, --n-gpu-layers N",
        "layers to store in VRAM, a number, 'auto', or 'all' (default: auto)", gpu_layers),
    Row("-sm,   --split-mode {none,layer,row,tensor}", "how to split across multiple GPUs",
        enum("split_mode", "llama_split_mode", _SPLIT)),
    Row("-ts,   --tensor-split N0,N1,N2,...", "fraction for each GPU", tensor_split),
    Row("-mg,   --main-gpu INDEX", "the GPU to use (default: 0)", whole("main_gpu")),
    Row("-fit,  --fit [on|off]", "adjust unset arguments to device memory", on_off("fit_params")),
    Row("-fitc, --fit-ctx N", "least context that --fit may set, default: 4096",
        whole("fit_params_min_ctx")),
    Row("-lm,   --load-mode MODE", "how to load the model (default: auto)" + _bullets(_LOAD_MODES),
        enum("load_mode", "llama_load_mode", _LOAD_MODES)),
    Row("-lzm,  --lazy-mode MODE", "read tensors on demand (default: auto)" + _bullets(_LAZY_MODES),
        enum("lazy_mode", "llama_lazy_mode", _LAZY_MODES)),
    Row("--numa TYPE", "optimizations for NUMA systems" + _bullets(_NUMA),
        enum("numa", "ggml_numa_strategy", _NUMA)),
    Row("--no-host", "bypass host buffer", switch("no_host")),
    Row("--repack, -nr, --no-repack", "weight repacking", switch("!no_extra_bufts")),
    Row("--op-offload, --no-op-offload", "offload host operations", switch("!no_op_offload")),
    Row("--check-tensors", "check tensor data for invalid values", switch("check_tensors")),
    Row("--warmup, --no-warmup", "warm up with an empty run", switch("warmup")),
    Row("--perf, --no-perf", "performance timings", switch("!no_perf", "!sampling.no_perf")),
    Row("--lora FNAME", "LoRA adapter (use comma-separated values for several)", lora),
    Row("--lora-init-without-apply", "load LoRA adapters without applying them",
        switch("lora_init_without_apply")),
    Row("-mm,   --mmproj FILE", "multimodal projector file", text("mmproj.path")),
    Row("--mmproj-offload, --no-mmproj-offload", "GPU offloading for the projector",
        switch("mmproj_use_gpu")),
    Row("--image-min-tokens N", "fewest tokens an image takes", whole("image_min_tokens")),
    Row("--image-max-tokens N", "most tokens an image takes", whole("image_max_tokens")),
)

_CONTEXT = (
    Row("-c,    --ctx-size N", "size of the context (default: 0, 0 = the model's)", whole("n_ctx")),
    Row("-b,    --batch-size N", "logical maximum batch size (default: 2048)", whole("n_batch")),
    Row("-ub,   --ubatch-size N", "physical maximum batch size (default: 512)", whole("n_ubatch")),
    Row("-np,   --parallel N", "number of slots (default: -1, -1 = auto)", whole("n_parallel")),
    Row("-n,    --predict, --n-predict N", "number of tokens to predict (default: -1)",
        whole("n_predict")),
    Row("--keep N", "number of tokens to keep (default: 0, -1 = all)", whole("n_keep")),
    Row("-cb,   --cont-batching, -nocb, --no-cont-batching", "continuous batching",
        switch("cont_batching")),
    Row("-kvu,  --kv-unified, -no-kvu, --no-kv-unified", "one KV buffer for all sequences",
        switch("kv_unified")),
    Row("--context-shift, --no-context-shift", "context shift", switch("ctx_shift")),
    Row("-ctxcp, --ctx-checkpoints, --swa-checkpoints N", "checkpoints per slot (default: 32)",
        whole("n_ctx_checkpoints")),
    Row("-cram, --cache-ram N", "prompt cache in MiB (default: 8192)", whole("cache_ram_mib")),
    Row("--cache-prompt, --no-cache-prompt", "prompt caching", switch("cache_prompt")),
    Row("--cache-reuse N", "min chunk size to reuse (default: 0)", whole("n_cache_reuse")),
    Row("--cache-idle-slots, --no-cache-idle-slots", "save idle slots to the prompt cache",
        switch("cache_idle_slots")),
    Row("--swa-full", "use full-size SWA cache", switch("swa_full")),
    Row("-fa,   --flash-attn [on|off|auto]", "Flash Attention (default: 'auto')",
        enum("flash_attn_type", "llama_flash_attn_type", _FLASH)),
    Row("-ctk,  --cache-type-k TYPE", f"KV cache data type for K\n{_CACHE_HELP}",
        enum("cache_type_k", "ggml_type", _CACHE_TYPES)),
    Row("-ctv,  --cache-type-v TYPE", f"KV cache data type for V\n{_CACHE_HELP}",
        enum("cache_type_v", "ggml_type", _CACHE_TYPES)),
    Row("-kvo,  --kv-offload, -nkvo, --no-kv-offload", "KV cache offloading",
        switch("!no_kv_offload")),
    Row("--rope-scaling {none,linear,yarn}", "RoPE frequency scaling method",
        enum("rope_scaling_type", "llama_rope_scaling_type", _ROPE)),
    Row("--rope-scale N", "RoPE context scaling factor", rope_scale),
    Row("--rope-freq-base N", "RoPE base frequency", real("rope_freq_base")),
    Row("--rope-freq-scale N", "RoPE frequency scaling factor", real("rope_freq_scale")),
    Row("--yarn-orig-ctx N", "original context size (default: 0)", whole("yarn_orig_ctx")),
    Row("--yarn-ext-factor N", "extrapolation mix (default: -1.00)", real("yarn_ext_factor")),
    Row("--yarn-attn-factor N", "attention magnitude (default: -1.00)", real("yarn_attn_factor")),
    Row("--yarn-beta-slow N", "high correction dim (default: -1.00)", real("yarn_beta_slow")),
    Row("--yarn-beta-fast N", "low correction dim (default: -1.00)", real("yarn_beta_fast")),
)

_SAMPLING = (
    Row("-s,    --seed SEED", "RNG seed (default: -1, -1 = random)", seed),
    Row("--temp, --temperature N", "temperature (default: 0.80)",
        both(real("sampling.temp"), sampled("TEMP"))),
    Row("--top-k N", "top-k (default: 40, 0 = disabled)",
        both(whole("sampling.top_k"), sampled("TOP_K"))),
    Row("--top-p N", "top-p (default: 0.95, 1.0 = disabled)",
        both(real("sampling.top_p"), sampled("TOP_P"))),
    Row("--min-p N", "min-p (default: 0.05, 0.0 = disabled)",
        both(real("sampling.min_p"), sampled("MIN_P"))),
    Row("--xtc-probability N", "xtc probability (default: 0.00, 0.0 = disabled)",
        both(real("sampling.xtc_probability"), sampled("XTC_PROBABILITY"))),
    Row("--xtc-threshold N", "xtc threshold (default: 0.10, 1.0 = disabled)",
        both(real("sampling.xtc_threshold"), sampled("XTC_THRESHOLD"))),
    Row("--typical, --typical-p N", "typical sampling (default: 1.00)", real("sampling.typ_p")),
    Row("--repeat-last-n N", "tokens to consider for penalize (default: 64)",
        both(whole("sampling.penalty_last_n"), sampled("PENALTY_LAST_N"))),
    Row("--repeat-penalty N", "penalize repeats (default: 1.00, 1.0 = disabled)",
        both(real("sampling.penalty_repeat"), sampled("PENALTY_REPEAT"))),
    Row("--presence-penalty N", "presence penalty (default: 0.00)",
        real("sampling.penalty_present")),
    Row("--frequency-penalty N", "frequency penalty (default: 0.00)",
        real("sampling.penalty_freq")),
    Row("--dynatemp-range N", "dynamic range (default: 0.00)", real("sampling.dynatemp_range")),
    Row("--dynatemp-exp N", "its exponent (default: 1.00)", real("sampling.dynatemp_exponent")),
    Row("--mirostat N", "Mirostat sampling (default: 0, 0 = disabled)",
        both(whole("sampling.mirostat"), sampled("MIROSTAT"))),
    Row("--mirostat-lr N", "Mirostat learning rate (default: 0.10)",
        both(real("sampling.mirostat_eta"), sampled("MIROSTAT_ETA"))),
    Row("--mirostat-ent N", "Mirostat target entropy (default: 5.00)",
        both(real("sampling.mirostat_tau"), sampled("MIROSTAT_TAU"))),
    Row("--dry-multiplier N", "DRY multiplier (default: 0.00)", real("sampling.dry_multiplier")),
    Row("--dry-base N", "DRY base value (default: 1.75)", real("sampling.dry_base")),
    Row("--dry-allowed-length N", "DRY length (default: 2)", whole("sampling.dry_allowed_length")),
    Row("--dry-penalty-last-n N", "DRY reach (default: 64)", whole("sampling.dry_penalty_last_n")),
)

_SERVER = (
    Row("-m,    --model FNAME", "model path to load", text("model.path")),
    Row("-a,    --alias STRING", "model name aliases, comma-separated",
        words("model_alias", set[str])),
    Row("--tags STRING", "model tags, comma-separated", words("model_tags", set[str])),
    Row("--host HOST", "addresses to listen on, comma-separated (default: 127.0.0.1)",
        words("hostnames")),
    Row("--port PORT", "port to listen (default: 8080)", whole("port")),
    Row("--reuse-port", "allow multiple sockets on the same port", switch("reuse_port")),
    Row("--path PATH", "path to serve static files from", text("public_path")),
    Row("--api-prefix PREFIX", "prefix path the server serves from", text("api_prefix")),
    Row("--api-key KEY", "API keys, comma-separated (default: none)\n(env: LLAMA_API_KEY)",
        words("api_keys")),
    Row("--api-key-file FNAME", "file containing API keys, one per line", key_file),
    Row("--ssl-key-file FNAME", "PEM-encoded SSL private key", text("ssl_file_key")),
    Row("--ssl-cert-file FNAME", "PEM-encoded SSL certificate", text("ssl_file_cert")),
    Row("-to,   --timeout N", "read/write timeout in seconds (default: 3600)",
        whole("timeout_read", "timeout_write")),
    Row("--sse-ping-interval N", "seconds between SSE pings (default: 30)",
        whole("sse_ping_interval")),
    Row("--threads-http N", "threads for HTTP requests (default: -1)", whole("n_threads_http")),
    Row("--metrics", "enable the metrics endpoint", switch("endpoint_metrics")),
    Row("--props", "enable POST /props", switch("endpoint_props")),
    Row("--slots, --no-slots", "expose the slots endpoint", switch("endpoint_slots")),
    Row("--slot-save-path PATH", "folder for saved slots", folder("slot_save_path")),
    Row("-sps,  --slot-prompt-similarity SIMILARITY", "to use a slot (default: 0.10)",
        real("slot_prompt_similarity")),
    Row("--sleep-idle-seconds SECONDS", "idle seconds before sleeping (default: -1)",
        whole("sleep_idle_seconds")),
    Row("--embedding, --embeddings", "restrict to embeddings", switch("embedding")),
    Row("--rerank, --reranking", "enable the reranking endpoint", rerank),
    Row("--pooling {none,mean,cls,last,rank}", "pooling type for embeddings",
        enum("pooling_type", "llama_pooling_type", _POOLING)),
    Row("--embd-normalize N", "normalisation (default: 2)", whole("embd_normalize")),
    Row("--jinja, --no-jinja", "jinja template engine for chat", switch("use_jinja")),
    Row("--chat-template JINJA_TEMPLATE", "custom chat template", text("chat_template")),
    Row("--chat-template-file JINJA_TEMPLATE_FILE", "custom chat template", template_file),
    Row("--chat-template-kwargs STRING", "template arguments, a JSON object", template_arguments),
    Row("--reasoning-format FORMAT", "of thoughts (default: auto)" + _bullets(_REASONING),
        enum("reasoning_format", "common_reasoning_format", _REASONING)),
    Row("--prefill-assistant, --no-prefill-assistant", "prefill the assistant's response",
        switch("prefill_assistant")),
)
# fmt: on

ROWS: tuple[Row, ...] = _GENERAL + _LOADING + _CONTEXT + _SAMPLING + _SERVER
