# The sidecar: `orchestrate serve /profiles`, as the first and only service of a container.
#
#     docker build --tag orchestrate-sidecar .                              the embedded engine
#     docker build --tag orchestrate-sidecar --build-arg ENGINE=ollama .    see docs/docker.md
#
# For BuildKit and for the classic builder. What rarely changes comes first.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# Wheels in `wheels/` are taken instead of those of the package index: nothing is downloaded then.
COPY pyproject.toml README.md LICENSE wheel[s] /build/
# Debian has its pip as a wheel only; to unpack it takes a tenth of what `venv` does with it.
RUN set -eu; cd /build; \
    python3 -m venv --without-pip /opt/orchestrate; \
    python3 -m pip --version >/dev/null 2>&1 || \
        python3 -m zipfile -e /usr/share/python-wheels/pip-*.whl /build/pip; \
    from=''; if ls ./*.whl >/dev/null 2>&1; then from='--no-index --find-links /build'; fi; \
    echo "PYTHONPATH=/build/pip exec python3 -m pip --python /opt/orchestrate/bin/python" \
        "--disable-pip-version-check install --no-cache-dir ${from} \"\$@\"" >install; \
    echo 'import sys, tomllib; it = tomllib.load(open("pyproject.toml", "rb"))["project"]' >needs.py; \
    echo 'extra = {**it["optional-dependencies"], "": it["dependencies"]}[sys.argv[1]]' >>needs.py; \
    echo 'for one in extra: print(one)' >>needs.py; \
    python3 needs.py "" >needs; sh install --requirement needs
# embedded | llama-server | ollama, several by commas. The last two come from `engines/`.
ARG ENGINE=embedded
RUN set -eu; cd /build; \
    case ",${ENGINE}," in *,embedded,*) \
        python3 needs.py embedded >needs; sh install --requirement needs;; esac
COPY orchestrator /build/orchestrator
COPY LICENSE engine[s] /engines/
RUN set -eu; \
    sh /build/install --no-deps /build; \
    mkdir -p /opt/engines/bin /opt/engines/lib; \
    needs() { test -x "/engines/$1" || { \
        echo "error: ENGINE=${ENGINE} needs engines/$1 in the folder of the build" >&2; \
        echo "hint: docs/docker.md says what belongs there" >&2; exit 1; }; }; \
    case ",${ENGINE}," in *,llama-server,* | *,ollama,*) \
        needs llama.cpp/llama-server; cp -a /engines/llama.cpp /opt/engines/lib/ollama;; esac; \
    case ",${ENGINE}," in *,llama-server,*) \
        ln -s ../lib/ollama/llama-server /opt/engines/bin/llama-server;; esac; \
    case ",${ENGINE}," in *,ollama,*) \
        needs ollama; cp -a /engines/ollama /opt/engines/bin/ollama;; esac

FROM ${BASE}
LABEL org.opencontainers.image.title="orchestrate" \
      org.opencontainers.image.description="Local LLM servers as declared in YAML, kept so" \
      org.opencontainers.image.licenses="MIT"
# Compiled engines are linked against libgomp: there already, or fetched.
# /state may be a volume, a tmpfs, an emptyDir, and its user any: what is private lies below it.
RUN set -eu; \
    ldconfig -p | grep -q 'libgomp\.so\.1' || { \
        apt-get update; apt-get install --yes --no-install-recommends libgomp1; \
        rm -rf /var/lib/apt/lists/*; }; \
    groupadd --gid 10001 orchestrate; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state \
        --shell /usr/sbin/nologin orchestrate; \
    mkdir -p /profiles /models; \
    mkdir -m 1777 /state
COPY --from=build /opt /opt
ENV PATH=/opt/orchestrate/bin:/opt/engines/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/state \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORCHESTRATE_STATE_DIR=/state/orchestrate \
    ORCHESTRATE_CACHE_DIR=/state/cache \
    ORCHESTRATE_PROFILES=/profiles \
    ORCHESTRATE_MODELS=/models \
    ORCHESTRATE_HOST=0.0.0.0 \
    ORCHESTRATE_THREADS=quota \
    OLLAMA_MODELS=/state/ollama
WORKDIR /state
USER 10001:10001
# Twice a second until it is ready, and from then on every 20 s: an answer that stays the same is
# held back that long (older Dockers know one interval only), and a bad one never is.
HEALTHCHECK --interval=500ms --timeout=30s --start-period=30m --retries=3 CMD \
    orchestrate wait --for ready --timeout 1s >/dev/null || { rm -f /dev/shm/ready; exit 1; }; \
    if [ -e /dev/shm/ready ]; then exec sleep 20; fi; touch /dev/shm/ready
STOPSIGNAL SIGTERM
# The kernel drops what the first process does not handle yet: `docker stop` in its first moments
# would wait for its whole grace. What is blocked waits, until the program can take it.
ENTRYPOINT ["env", "--block-signal=TERM", "orchestrate", "serve"]
CMD ["/profiles"]
