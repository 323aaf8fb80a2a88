"""Questions that look at a site's other patients, as C-Reason's do: never under differential privacy."""
