"""Entry point: the workflow itself lives in workflow/; profiles/ beside this file gives Snakemake its default profile."""


include: "workflow/Snakefile"


workflow.default_target = "eval_all"
