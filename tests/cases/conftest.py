"""Lightning's advice about loaders, which small data need not follow, is no fault of a situation."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/cases/" in item.path.as_posix():
            for message in (
                ".*does not have many workers",
                ".*no `val_dataloader`",
                ".*smaller than the logging interval",
            ):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{message}"))
