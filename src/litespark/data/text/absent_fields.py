"""Whether any record of a source has the fields that the settings name, before hours go into preparing it."""

from itertools import islice
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.text.document import domain_name
from litespark.data.text.fields import TEXT_SETTING, Row, absent, leads_to, names_in
from litespark.data.text.files import SourceFile
from litespark.data.text.reader import on_this_machine, rows

DOMAIN_SETTING = "data.domain_field"
_LOOKED_AT_BYTES = 1 << 30
_MOST_FILES = 1 << 10
_MOST_NAMES = 200
_MOST_TEXTS = 16
_OF_A_LIST = ".list."


def refuse_absent_fields(config: PrepareConfig, files: tuple[SourceFile, ...], scratch: Path) -> None:
    """Raise ValueError where no record has anything in `text_field` or `domain_field`; it names the nearest fields.

    It looks until it has seen one of each, at most at a GiB that is spread over all files; of what is called a plain
    text a few are looked into, since it may hold JSON.
    """
    wanted = {TEXT_SETTING: config.text_field}
    if config.domain_field:
        wanted[DOMAIN_SETTING] = config.domain_field
    whole = [file for file in files if file.size and file.copy_of is None]
    chosen = [file for file in whole if file.holds_records]
    chosen = chosen[:: len(chosen) // _MOST_FILES + 1]
    chosen += islice((file for file in whole if not file.holds_records and not file.remote), _MOST_TEXTS)
    names: dict[str, None] = {}
    records = 0
    for file in chosen:
        left = _LOOKED_AT_BYTES // len(chosen)
        with on_this_machine(file, scratch) as path:
            for _, row in rows(path, file, config):
                left -= len(row.text)
                if row.record is not None:
                    records += 1
                    wanted = {setting: name for setting, name in wanted.items() if not _has(row, setting)}
                    if len(names) < _MOST_NAMES:
                        names |= dict.fromkeys(names_in(row.record))
                if not wanted:
                    return
                if left < 0:
                    break
    if records:  # the reader counts what is no record
        raise _absent(config, *next(iter(wanted.items())), list(names), records)


def _has(row: Row, setting: str) -> bool:
    if setting == DOMAIN_SETTING:
        return domain_name(row.domain) is not None
    return bool(row.text) and row.fault != "missing_text"


def _absent(config: PrepareConfig, setting: str, name: str, names: list[str], records: int) -> ValueError:
    of_domain = setting == DOMAIN_SETTING
    where = f"data.source={config.source}, {records} records looked at"
    lacking = "no field"
    if leads_to(name, names):
        lacking = "no name (a text or a whole number) in field" if of_domain else "nothing in field"
    unfit = {name, config.text_field} if of_domain else {name}
    others = [there for there in names if there not in unfit and _OF_A_LIST not in there]
    if of_domain and not others:
        there = ", ".join(names) or "none at all"
        return ValueError(f"{where}: {lacking} {name}, but {there}. Set {setting}=null for one domain.")
    none = f", or {setting}=null for one domain" if of_domain else ""
    return ValueError(f"{absent(where, setting, name, others, lacking=lacking)}{none}.")
