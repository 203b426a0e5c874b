"""What preflight does not name yet, and warnings on twins that a person would share."""

from __future__ import annotations

NOT_CAUGHT: dict[str, str] = {
    **dict.fromkeys(
        ("patience_within_warmup",),
        "told in the first epoch, not before",
    ),
    **dict.fromkeys(
        (
            "trace_of_one",
            "weights_hide_main_term",
            "mixture_unpacked_in_wrong_order",
            "labels_shuffled",
            "untrained_backbone_frozen",
            "kl_term_with_wrong_sign",
            "kl_term_outweighs_pixels",
            "nothing_to_forecast",
            "radians_twice",
            "mse_of_class_numbers",
            "phase_never_on",
            "edges_not_shifted",
            "captions_shuffled_apart",
            "centred_rolling_mean",
            "edge_pairs_viewed",
            "edges_in_one_direction",
            "file_names_sorted_as_text",
            "label_of_another_recording",
            "missing_targets_as_zero",
            "points_not_flipped",
            "prompt_kept_answer_masked",
            "triplets_swapped",
            "two_different_noises",
        ),
        "needs to know what the task is about; the objects alone look sound",
    ),
    **dict.fromkeys(
        (
            "padding_index_is_a_word",
            "attention_sees_padding",
        ),
        "padding cannot be told from tokens without a declaration",
    ),
    **dict.fromkeys(
        (
            "scaled_in_eval_only",
            "softmax_twice",
            "embedding_saturates_tanh",
            "peak_is_ten_times",
            "blank_is_a_letter",
            "copies_before_split",
            "dice_of_logits",
            "divided_by_accumulation",
            "f1_is_one_without_positives",
            "loss_is_a_sum",
            "max_steps_in_epochs",
            "scores_times_root",
            "target_encoding_with_own_row",
            "temperature_multiplied",
            "train_mask_forgotten",
            "variance_multiplied",
        ),
        "not looked at yet",
    ),
    **dict.fromkeys(
        ("one_hot_integers",),
        "alarm given, in other words",
    ),
    **dict.fromkeys(
        (
            "only_predictions_scaled_back",
            "reward_of_another_action",
        ),
        "alarm given, but what it asks for would not mend the fault",
    ),
    **dict.fromkeys(
        (
            "average_far_too_slow",
            "batch_larger_than_data",
            "weights_per_class",
        ),
        "harmless in this engine, or a matter of taste",
    ),
}
"""Fault -> why it is not named before training; a test fails when one is."""

MAY_WARN: dict[str, dict[str, str]] = {
    "dummy_images": {"S5": "the reader would invent a sample, were one broken"},
    "some_dummy_images": {"S5": "the reader would invent a sample, were one broken"},
    "loss_replaced_by_constant": {
        "S5": "the loss would swallow an exception, were there one",
        "R11": "the loss would swallow an exception, were there one",
    },
    "pattern_matches_everything": {"R6": "one layer rests, by lr_groups, undeclared"},
    "report_of_absent_classes": {"R1": "a third of the classes is in no val sample"},
    "monte_carlo_dropout": {"R4": "random in eval, undeclared"},
    "larger_in_validation": {"R2": "validation pictures are larger, undeclared"},
    "mean_teacher": {"R1": "most training rows have a class that val has not: -1"},
}
"""Program -> check -> why its warning is right."""
