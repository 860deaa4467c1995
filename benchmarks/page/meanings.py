"""What each column means, for a reader who has not read the papers."""

FIGURES = {
    "reward/gold": "The true reward: the score that stands for the truth in this data, from which no method learned. "
                   "More is better.",
    "reward/gold_minus_sft": "The true reward less that of the start's answers to the same prompts. Above 0: better "
                             "than the start.",
    "win_rate/sft": "How often the answer has more of the true reward than the start's answer to the same prompt; ties "
                    "count half. One half is no difference.",
    "win_rate_data/gold": "How often the answer has more of the true reward than the data's own preferred one; ties "
                          "count half.",
    "reward/proxy": "The learned reward that PPO, RRHF and best-of-n optimise. It favours them, and says nothing of "
                    "the truth by itself.",
    "reward/proxy_minus_sft": "The learned reward less that of the start's answers to the same prompts.",
    "score/auditor": "What the auditor thinks of the answers: a reward model that learned from comparisons which no "
                     "method saw. More is better, as far as the auditor can be believed.",
    "score/auditor_minus_sft": "The auditor's score less that of the start's answers to the same prompts.",
    "win_rate/auditor": "How often the auditor prefers the answer to the start's to the same prompt; ties count half.",
    "accuracy/auditor": "The share of held-out comparisons that the auditor ranks as the annotators did: how far it "
                        "can be believed.",
    "kl/exact": "How far the trained model is from its start: the KL divergence in nats per answer, over the whole "
                "vocabulary.",
    "kl/k1": "How far the trained model is from its start: KL divergence in nats per answer, estimated from the "
             "answers.",
    "kl/bound": "An upper bound, log n − (n−1)/n, of how far choosing the best of n leads from the start.",
    "length/mean": "Tokens of an answer.",
    "eos_rate": "The share of answers that ended by themselves before the limit of length.",
    "distinct_2": "The share of different pairs of neighbouring words in an answer; little of it is repetition.",
    "perplexity/heldout": "How unlikely the model finds held-out demonstrations, per token. Less is better.",
    "perplexity/heldout_minus_sft": "The logarithm of the perplexity less the start's, in nats per token, on the same "
                                    "demonstrations. Above 0: the model finds them less likely than its start did.",
    "perplexity/texts": "How unlikely the model finds texts of what its base could before and nothing here trains on, "
                        "per token. Less is better.",
    "perplexity/texts_minus_sft": "The logarithm of that perplexity less the start's, in nats per token. Above 0: "
                                  "training took something of what the base could.",
    "overlap/rouge_l": "How many words, in order, an answer shares with the data's own (ROUGE-L, F-measure, the mean "
                       "over answers). It says nothing of whether an answer is good.",
    "overlap/bleu": "How many runs of one to four words an answer shares with the data's own (BLEU of each answer, "
                    "their mean; not the BLEU of a corpus). It says nothing of whether an answer is good.",
    "accuracy/heldout": "The share of held-out comparisons that the method ranks as the annotators did.",
    "refusal/unanswerable": "The share of questions without an answer that were declined.",
    "refusal/answerable": "The share of questions with a known answer that were declined all the same. Less is better.",
    "vader": "What a word list that nothing was trained on says of the answers' sentiment, from -1 to 1.",
    "accuracy/exact": "The share of answers that are right, by a rule that compares them with what the data gives as "
                      "the right one. More is better.",
    "accuracy/exact_minus_sft": "The share of right answers less that of the start's to the same prompts. Above 0: "
                                "better than the start.",
    "accuracy/answerable": "The share of questions with a known answer that were answered rightly.",
}
# Of judges and of lm-evaluation-harness, by the beginning of the figure's name.
JUDGED = {
    "score/": "What a judge that no method was trained on says of the answers. More is better.",
    "win_rate/": "How often the judge takes the answer over the start's to the same prompt; ties count half. One half "
                 "is no difference.",
    "harness/": "What lm-evaluation-harness finds on its task of that name, by the metric after the point.",
    "win_rate_data/": "How often the judge takes the answer over the data's own preferred one; ties count half.",
}
COSTS = {
    "seconds": "Seconds of training, the stages it stands on included; of a method that works when it is asked, such "
               "as best-of-n, those of drawing the evaluation's answers. Compare within one machine only.",
    "money": "What those seconds cost at the price of an hour that was given.",
    "tokens_trained": "Tokens that gradients were computed of, shared stages included.",
    "tokens_sampled": "Tokens drawn for training, shared stages included; the evaluation's count only for a method "
                      "that works when it is asked, such as best-of-n.",
    "labels": "Labelled comparisons that it learned from, directly or through the reward model.",
    "peak_memory_bytes": "The most memory that training took, in megabytes.",
    "reward_queries": "Answers that the learned reward scored for training.",
    "resident_models": "Models (roles on one base) in memory at once.",
    "trainable_parameters": "Parameters that the method itself trained, without the stages it stands on; 0 of one that "
                            "only chooses among answers.",
}


def of(figure: str) -> str:
    """What a figure means; empty for one that only its run knows."""
    # whichever the start is
    figure = figure.replace("_minus_base", "_minus_sft").replace("win_rate/base", "win_rate/sft")
    return FIGURES.get(figure) or next((told for start, told in JUDGED.items() if figure.startswith(start)), "")
