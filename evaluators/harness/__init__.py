"""lm-eval-harness tasks: loaded, checked, asked of one model after another, and scored."""
