"""Tasks for networks that think in ticks: data, losses, training, and what thinking was worth."""
