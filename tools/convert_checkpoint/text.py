# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Text encoders in BERT's layout: which variant the tensors are of, and the model directory's names and config.json.

Told by the tensors: the variant (`ai` is LION-D, `Wa_i` LION-S, neither LION-LIT), all widths, the number of layers,
layer_norm_after, a classifier and its classes; the number of heads where there is a decay a head. Not told: the heads of
LION-LIT, layer_norm_eps, and whether positions are used (the table is there in any case). These come from the
configuration in or beside the checkpoint, else from a flag, else they are as published.
"""

from plan import Plan

# arch_type as configurations write it, the older names of pretraining checkpoints included.
ARCHITECTURES = {
    "lion-lit": "lion-lit", "lion-d": "lion-d", "lion-s": "lion-s",
    "linear_attention": "lion-lit", "nova": "lion-d", "nova-inputdep": "lion-s",
}  # fmt: skip
_UNUSED_POSITIONS = "relative_key_query"  # what the published configurations without positions say


def plan_text(checkpoint, config, options):
    """config: of transformers ({} = none). options: num_heads (0 = not given), positions ("" = not given), labels (list
    or None), multi_label, drop (patterns). Returns a finished Plan; ValueError naming all that stands in the way."""
    bare = not any(n.startswith("bert.") for n in checkpoint.tensors)
    plan = Plan({("bert." + n if bare and n.startswith(("embeddings.", "encoder.", "pooler.")) else n): t
                 for n, t in checkpoint.tensors.items()})  # fmt: skip
    for pattern in options.drop:
        plan.drop(pattern, "by --drop")
    embeddings, layers = "bert.embeddings.", "bert.encoder.layer."
    V, E = plan.shape(f"{embeddings}word_embeddings.weight", 2)
    types = plan.shape(f"{embeddings}token_type_embeddings.weight", 2)[0]
    N = plan.indices(r"bert\.encoder\.layer\.(\d+)\.")
    F = plan.shape(f"{layers}0.intermediate.dense.weight", 2)[0]
    attention = f"{layers}0.attention.self."
    variant = _variant(plan, attention, config)
    H = _heads(plan, attention, variant, config, options, E)
    after = plan.has(f"{attention}layer_norm.weight")
    if "layer_norm_after" in config and bool(config["layer_norm_after"]) != after:
        plan.differ("layer_norm_after", config["layer_norm_after"], after)
    for name, seen in (("hidden_size", E), ("num_hidden_layers", N), ("intermediate_size", F), ("type_vocab_size", types)):
        if config.get(name, seen) != seen:
            plan.differ(name, config[name], seen)
    if config.get("hidden_act", "gelu") != "gelu":
        plan.problems.append(f"unserved  hidden_act is '{config['hidden_act']}': only 'gelu' is served")

    positions = _positions(plan, variant, config, options, f"{embeddings}position_embeddings.weight")
    plan.take_all(
        (f"{embeddings}word_embeddings.weight", (V, E)),
        (f"{embeddings}token_type_embeddings.weight", (types, E)),
        *_pair(f"{embeddings}LayerNorm", E),
    )
    if positions:
        plan.take(f"{embeddings}position_embeddings.weight", (positions, E))
    for n in range(N):
        layer = f"{layers}{n}."
        for name in ("query", "key", "value"):
            plan.take_all(*_pair(f"{layer}attention.self.{name}", E, E))
        if variant == "lion-d":
            plan.take(f"{layer}attention.self.ai", (H,))
        if variant == "lion-s":
            plan.take_all(*_pair(f"{layer}attention.self.Wa_i", H, E))
        if after:
            plan.take_all(*_pair(f"{layer}attention.self.layer_norm", E))
        plan.take_all(
            *_pair(f"{layer}attention.output.dense", E, E),
            *_pair(f"{layer}attention.output.LayerNorm", E),
            *_pair(f"{layer}intermediate.dense", F, E),
            *_pair(f"{layer}output.dense", E, F),
            *_pair(f"{layer}output.LayerNorm", E),
        )
    classes = plan.shape("classifier.weight", 2)[0] if plan.has("classifier.weight") else 0
    if classes:
        plan.take_all(*_pair("classifier", classes, E))
    if classes or plan.has("bert.pooler.dense.weight"):
        plan.take_all(*_pair("bert.pooler.dense", E, E))
    plan.drop(r"bert\.embeddings\.position_embeddings\.weight", "positions are not used")
    plan.drop(r"bert\.embeddings\.(?:position_ids|token_type_ids)", "a buffer, no weights")
    plan.drop(r"cls\..*", "masked-LM or next-sentence head, which is not served")

    eps = config.get("layer_norm_eps")
    if eps is None:
        eps = 1e-12
        plan.tell("layer_norm_eps: 1e-12 taken, as published")
    plan.config = {
        "architectures": ["BertForSequenceClassification" if classes else "BertModel"],
        "model_type": "bert",
        "arch_type": variant,
        "layer_norm_after": after,
        "position_embedding_type": "absolute" if positions else _UNUSED_POSITIONS,
        "vocab_size": V,
        "hidden_size": E,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "intermediate_size": F,
        "hidden_act": "gelu",
        "layer_norm_eps": eps,
        "max_position_embeddings": positions or 512,
        "type_vocab_size": types,
        "pad_token_id": config.get("pad_token_id", 0),
    }
    if classes:
        plan.config |= label_fields(plan, classes, config, options)
    plan.finish()
    return plan


def label_fields(plan, classes, config, options):
    """The fields of config.json that name the classes, for texts and images alike."""
    given = config.get("id2label")
    labels = options.labels or ([given[k] for k in sorted(given, key=int)] if isinstance(given, dict) else None)
    if labels is None:
        plan.tell(f"the names of the {classes} classes: they are LABEL_0 … unless --labels names them")
        labels = [f"LABEL_{i}" for i in range(classes)]
    elif len(labels) != classes:
        plan.problems.append(f"labels    {len(labels)} are named, the classifier has {classes} classes")
    problem = "multi_label_classification" if options.multi_label else config.get("problem_type")
    if problem is None:
        problem = "multi_label_classification" if classes == 1 else "single_label_classification"
        if classes > 1:
            plan.tell("problem_type: one class an input taken (softmax); --multi_label for several (sigmoid)")
    return {
        "problem_type": problem,
        "num_labels": classes,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _pair(name, rows, *columns):
    """The weight and the bias of a linear layer, or of a LayerNorm where no columns are given."""
    return (f"{name}.weight", (rows, *columns)), (f"{name}.bias", (rows,))


def _variant(plan, attention, config):
    gates = [v for v, name in (("lion-d", "ai"), ("lion-s", "Wa_i.weight")) if plan.has(attention + name)]
    if len(gates) > 1:
        raise ValueError(f"layer 0 has both {attention}ai and {attention}Wa_i: neither LION-D nor LION-S")
    variant = gates[0] if gates else "lion-lit"
    said = config.get("arch_type")
    if said is not None and ARCHITECTURES.get(said) != variant:
        plan.differ("arch_type", said, variant)
    if said is None and not gates:
        plan.tell("arch_type: no decay in the tensors, so lion-lit. (A BERT with softmax looks the same: it would be wrong)")
    return variant


def _heads(plan, attention, variant, config, options, E):
    if variant == "lion-d":
        seen = plan.shape(f"{attention}ai", 1)[0]
    elif variant == "lion-s":
        seen = plan.shape(f"{attention}Wa_i.weight", 2)[0]
    else:
        seen = None
    return plan.heads("num_attention_heads", options.num_heads or config.get("num_attention_heads"), seen, E)


def _positions(plan, variant, config, options, name):
    """Rows of the position table if positions are used, else 0."""
    said = options.positions or config.get("position_embedding_type")
    if said is None:
        said = "absolute" if variant == "lion-lit" else "none"
        plan.tell(f"positions: {said} taken, as published for {variant}; --positions for others")
    return plan.shape(name, 2)[0] if said == "absolute" else 0
