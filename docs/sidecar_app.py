"""The app of `compose.yaml`: asks the model beside it once, as any OpenAI client would."""

import json
import os
import sys
import urllib.request


def main() -> None:
    question = " ".join(sys.argv[1:]) or "Say hello."
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 64}
    request = urllib.request.Request(
        os.environ["LLM_URL"] + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    # `depends_on: {condition: service_healthy}` means: there is a model, it is loaded, it answers.
    with urllib.request.urlopen(request, timeout=120) as answer:
        said = json.load(answer)["choices"][0]["message"]["content"]
    print(f"{question} -> {said.strip()}", flush=True)


main()
