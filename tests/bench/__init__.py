"""What syncd costs against the least that could do the job: `python -m tests.bench --help`."""
