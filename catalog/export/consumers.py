"""Reads exports with the programs that they are for. Prints what those found
as JSON. Usage: consumers.py FOLDER ADDRESS
FOLDER holds the exports, ADDRESS serves /v1/models and /api/tags."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import ollama
import openai
import yaml
from gpustack.schemas.model_sets import Catalog

folder, address = sys.argv[1:3]
found = {}

config = yaml.safe_load(open(f"{folder}/litellm/config.yaml"))
prices = json.load(open(f"{folder}/litellm/prices.json"))
litellm.register_model(prices)
router = litellm.Router(model_list=config["model_list"], **config["router_settings"])
found["costs"] = {
    name: [repr(c) for c in litellm.cost_per_token(model=name, prompt_tokens=1_000_000, completion_tokens=100_000)]
    for name in prices
}
draws = found["draws"] = {}
for name in ("assistant", "qwen3-0.6b", "qwen3-small"):
    counts = draws[name] = {}
    for _ in range(4000):
        chosen = router.get_available_deployment(model=name, messages=[{"role": "user", "content": "hi"}])
        counts[chosen["model_info"]["id"]] = counts.get(chosen["model_info"]["id"], 0) + 1

client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
found["openai"] = {m.id: [m.created, m.owned_by] for m in client.models.list()}
found["ollama"] = {
    m.model: [m.size, m.digest, m.details.family, m.details.parameter_size, m.details.quantization_level]
    for m in ollama.Client(host=address).list().models
}
sets = Catalog(**yaml.safe_load(open(f"{folder}/gpustack/model-catalog.yaml"))).model_sets
found["gpustack"] = {s.name: [s.size, s.size_unit.value, [spec.local_path for spec in s.specs]] for s in sets}
json.dump(found, sys.stdout)
