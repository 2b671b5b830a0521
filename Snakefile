"""Entry point; the workflow itself lives in workflow/. Snakemake finds its default profile beside this file."""


include: "workflow/Snakefile"


workflow.default_target = "eval_all"
