"""Model families, tiny: the configuration class of each, its arguments and the attentions it has."""

import transformers

VOCABULARY = 1525
LLAMA = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2,
         "max_position_embeddings": 128}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
OPT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128, "word_embed_proj_dim": 64,
       "max_position_embeddings": 128}
# name → (config class, its arguments, attentions it has)
BOTH, EAGER = ("sdpa", "eager"), ("eager",)
FAMILIES = {
    "llama": ("LlamaConfig", LLAMA, BOTH),
    "qwen2": ("Qwen2Config", LLAMA, BOTH),
    "qwen3": ("Qwen3Config", {**LLAMA, "head_dim": 16}, BOTH),
    "mistral": ("MistralConfig", {**LLAMA, "sliding_window": 8}, BOTH),
    "mistral, long window": ("MistralConfig", {**LLAMA, "sliding_window": 64}, BOTH),
    "mistral, no window": ("MistralConfig", {**LLAMA, "sliding_window": None}, BOTH),
    "gemma": ("GemmaConfig", {**LLAMA, "head_dim": 16}, BOTH),
    "gemma2": ("Gemma2Config", {**LLAMA, "head_dim": 16, "final_logit_softcapping": 0.2}, EAGER),
    "gemma3": ("Gemma3TextConfig", {**LLAMA, "head_dim": 16, "sliding_window": 8}, BOTH),
    "cohere": ("CohereConfig", {**LLAMA, "logit_scale": 0.0625}, BOTH),
    "granite": ("GraniteConfig", {**LLAMA, "logits_scaling": 3.0}, BOTH),
    "gpt-neox": ("GPTNeoXConfig", {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}, BOTH),
    "gpt-j": ("GPTJConfig", {**GPT2, "rotary_dim": 8, "n_inner": 128}, EAGER),
    "gpt-neo": ("GPTNeoConfig", {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128,
                                 "attention_types": [[["global", "local"], 1]], "window_size": 8}, EAGER),
    "gpt2": ("GPT2Config", GPT2, BOTH),
    "phi": ("PhiConfig", LLAMA, BOTH),
    "opt": ("OPTConfig", OPT, BOTH),
    "falcon": ("FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
               BOTH),
    "falcon, alibi": ("FalconConfig",
                      {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}, BOTH),
    "bloom": ("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 4}, EAGER),
}


def config_of(name):
    kind, options, _ = FAMILIES[name]
    return getattr(transformers, kind)(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **options)
