"""The files around the code: versions that agree, a citation, typed packages, and forms that parse."""

import re
import tomllib

import pytest
import yaml
from helpers import ROOT

import gen_lightning

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML_FILES = sorted(path for path in (ROOT / ".github").rglob("*") if path.suffix in {".yaml", ".yml"})


def test_the_citation_has_what_the_format_requires_and_the_version_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "version"}
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_changelog_has_the_usual_form_and_the_version_of_the_project():
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    unreleased, *released = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert unreleased == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in released)
    assert not released or released[0].startswith(f"[{PROJECT['version']}]")
    headings = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_installed_package_has_the_version_of_the_project():
    assert gen_lightning.__version__ == PROJECT["version"]


@pytest.mark.parametrize("package", ["callbacks", "cli", "datamodules", "gen_lightning"])
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_workflows_and_issue_forms_parse(path):
    assert yaml.safe_load(path.read_text())


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yaml")), ids=lambda path: path.stem)
def test_issue_forms_have_a_name_a_description_and_fields_of_known_types(form):
    content = yaml.safe_load(form.read_text())
    assert content["name"]
    assert content["description"]
    assert {field["type"] for field in content["body"]} <= {"input", "textarea", "dropdown", "checkboxes", "markdown"}
