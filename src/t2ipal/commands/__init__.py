"""The sub-commands of ``t2ipal``. Heavy imports happen inside the command that needs them."""
