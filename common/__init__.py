"""What both sides of the federation must agree on; imports neither client nor server."""

import logging

# Wherever it is installed peft imports it, and it then tells of kernels that nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
