"""The schema of attribution graphs, as circuit-tracer writes and Neuronpedia reads them, and a check against it."""

import re
from typing import Any

TEXT, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
MAYBE = {"type": ["number", "null"]}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": TEXT,
                "scan": TEXT,
                "transcoder_list": {"type": "array", "items": TEXT},
                "prompt_tokens": {"type": "array", "items": TEXT},
                "prompt": TEXT,
                "node_threshold": NUMBER,
                "schema_version": INTEGER,
                "info": {
                    "type": "object",
                    "properties": {
                        "creator_name": TEXT,
                        "generator": {
                            "type": "object",
                            "properties": {"name": TEXT, "version": TEXT, "url": TEXT},
                        },
                        "create_time_ms": NUMBER,
                        "source_urls": {"type": "array", "items": TEXT},
                    },
                },
                "generation_settings": {"type": "object"},
                "pruning_settings": {
                    "type": "object",
                    "properties": {"node_threshold": NUMBER, "edge_threshold": NUMBER},
                },
                "feature_details": {
                    "type": "object",
                    "properties": {
                        "feature_json_base_url": TEXT,
                        "neuronpedia_source_set": TEXT,
                        "neuronpedia_lorsa_source_set": TEXT,
                    },
                },
            },
        },
        "qParams": {
            "type": "object",
            "required": ["linkType", "pinnedIds", "clickedId", "supernodes", "sg_pos"],
            "properties": {
                "linkType": TEXT,
                "pinnedIds": {"type": "array", "items": TEXT},
                "clickedId": TEXT,
                "supernodes": {"type": "array", "items": {"type": "array", "items": TEXT}},
                "sg_pos": TEXT,
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    "node_id": TEXT
                    | {
                        "pattern": r"\d+_(lor_)?\d+_\d+|\d+_-1_\d+|\d+_error_attn_\d+|E_\d+_\d+|E_-1_\d+|bias_\d+",
                    },
                    "feature": INTEGER,
                    "layer": TEXT | {"pattern": r"\d+|E"},
                    "ctx_idx": INTEGER,
                    "feature_type": {
                        "enum": [
                            "cross layer transcoder",
                            "mlp reconstruction error",
                            "embedding",
                            "logit",
                            "lorsa",
                            "lorsa error",
                            "bias",
                        ]
                    },
                    "jsNodeId": TEXT,
                    "clerp": TEXT,
                    "influence": MAYBE,
                    "activation": MAYBE,
                    "token_prob": NUMBER,
                    "is_target_logit": {"type": "boolean"},
                    "run_idx": INTEGER,
                    "reverse_ctx_idx": INTEGER,
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {"source": TEXT, "target": TEXT, "weight": NUMBER},
            },
        },
    },
}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(value: Any, schema: dict[str, Any], where: str = "graph") -> list[str]:
    """Where a value is not what this schema says: type, enum, pattern (of all of it), required, properties, items."""
    found: list[str] = []
    if "type" in schema:
        allowed = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        is_other = isinstance(value, bool) and "boolean" not in allowed  # a bool is an int in Python
        if is_other or not any(isinstance(value, TYPES[name]) for name in allowed):
            return [f"{where}: {value!r} is not of type {' or '.join(allowed)}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        found.append(f"{where}: {value!r} does not match {schema['pattern']}")
    found += [f"{where}: {key} is missing" for key in schema.get("required", ()) if key not in value]
    for key, one in schema.get("properties", {}).items():
        if isinstance(value, dict) and key in value:
            found += problems(value[key], one, f"{where}.{key}")
    if "items" in schema:
        for number, one in enumerate(value):
            found += problems(one, schema["items"], f"{where}[{number}]")
    return found
