"""What the toy systems know. People and devices differ between systems on purpose: audits find it."""

from __future__ import annotations

from typing import Any, Final

Record = dict[str, Any]

SWITCHES: Final[dict[str, Record]] = {
    "7": {"id": "7", "name": "sw-core-7", "site": "Berlin", "ports": 48, "firmware": "17.9.4"},
    "8": {"id": "8", "name": "sw-edge-8", "site": "Lyon", "ports": 24, "firmware": "17.6.1"},
}

WORKDAY: Final[dict[str, Record]] = {
    "john.doe@wheels.com": {
        "id": "W-1001",
        "descriptor": "John Doe",
        "email": "john.doe@wheels.com",
        "jobTitle": "Senior Engineer",
        "department": "Engineering",
        "active": True,
    },
    "jane.roe@wheels.com": {
        "id": "W-1002",
        "descriptor": "Jane Roe",
        "email": "jane.roe@wheels.com",
        "jobTitle": "Fleet Manager",
        "department": "Operations",
        "active": True,
    },
    "max.left@wheels.com": {
        "id": "W-1003",
        "descriptor": "Max Left",
        "email": "max.left@wheels.com",
        "jobTitle": "Analyst",
        "department": "Finance",
        "active": False,
    },
}

ACTIVE_DIRECTORY: Final[dict[str, Record]] = {
    "john.doe@wheels.com": {
        "sAMAccountName": "jdoe",
        "mail": "john.doe@wheels.com",
        "title": "Senior Engineer",
        "department": "Engineering",
        "enabled": True,
    },
    "jane.roe@wheels.com": {
        "sAMAccountName": "jroe",
        "mail": "jane.roe@wheels.com",
        "title": "Fleet Manager",
        "department": "Operations",
        "enabled": True,
    },
    "max.left@wheels.com": {
        "sAMAccountName": "mleft",
        "mail": "max.left@wheels.com",
        "title": "Analyst",
        "department": "Finance",
        "enabled": True,
    },
}

ENTRA: Final[dict[str, Record]] = {
    "john.doe@wheels.com": {
        "id": "e-77",
        "mail": "john.doe@wheels.com",
        "displayName": "John Doe",
        "jobTitle": "Engineer",
        "department": "Engineering",
        "accountEnabled": True,
    },
    "jane.roe@wheels.com": {
        "id": "e-78",
        "mail": "jane.roe@wheels.com",
        "displayName": "Jane Roe",
        "jobTitle": "Fleet Manager",
        "department": "Operations",
        "accountEnabled": True,
    },
    **{
        f"guest{n}@wheels.com": {
            "id": f"e-{100 + n}",
            "mail": f"guest{n}@wheels.com",
            "displayName": f"Guest {n}",
            "jobTitle": "Contractor",
            "department": "External",
            "accountEnabled": True,
        }
        for n in range(1, 6)
    },
}

LANSWEEPER: Final[dict[str, Record]] = {
    "LT-0042": {"assetName": "LT-0042", "serialNumber": "5CD042", "os": "Windows 11 23H2", "owner": "john.doe"},
    "LT-0043": {"assetName": "LT-0043", "serialNumber": "5CD043", "os": "Windows 11 24H2", "owner": "jane.roe"},
}

INTUNE: Final[dict[str, Record]] = {
    "LT-0042": {
        "deviceName": "LT-0042",
        "serialNumber": "5CD042",
        "osVersion": "Windows 11 23H2",
        "complianceState": "compliant",
    },
    "LT-0044": {
        "deviceName": "LT-0044",
        "serialNumber": "5CD044",
        "osVersion": "Windows 10 22H2",
        "complianceState": "noncompliant",
    },
}

HELIX: Final[dict[str, Record]] = {
    "LT-0042": {"name": "LT-0042", "serial": "5CD042", "status": "Deployed", "os": "Windows 11 22H2"},
    "LT-0043": {"name": "LT-0043", "serial": "5CD043", "status": "In Repair", "os": "Windows 11 24H2"},
}

NAVIGATION: Final[Record] = {
    "title": "Operations portal",
    "systems": [
        {
            "id": "inventory",
            "name": "Inventory",
            "menus": [
                {"id": "switches", "label": "Switches", "action": "read", "resource": "system:inventory"},
                {"id": "add-switch", "label": "Add a switch", "action": "write", "resource": "system:inventory"},
            ],
        },
        {
            "id": "monitoring",
            "name": "Monitoring",
            "menus": [
                {"id": "alarms", "label": "Alarms", "action": "read", "resource": "system:monitoring"},
                {"id": "silence", "label": "Silence an alarm", "action": "write", "resource": "system:monitoring"},
            ],
        },
        {
            "id": "audit",
            "name": "Audit",
            "menus": [{"id": "users", "label": "User audit", "action": "audit", "resource": "system:audit"}],
        },
        {
            "id": "registry",
            "name": "Registry",
            "menus": [{"id": "systems", "label": "Systems", "action": "read", "resource": "system:registry"}],
        },
        {
            "id": "admin",
            "name": "Administration",
            "menus": [{"id": "rights", "label": "Rights", "action": "write", "resource": "system:admin"}],
        },
    ],
}
