# What one does most. Each target is one script or command, so that it can be read here.
.PHONY: setup check test demo site format

setup:  ## .venv with everything
	scripts/setup dev integration

check:  ## static checks and the fast tests
	scripts/test fast

test:  ## everything
	scripts/test

demo:  ## toy systems, IAM and the gateway on loopback
	scripts/demo

site: setup  ## the documentation, into build/site
	scripts/site

format: setup  ## format, and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
