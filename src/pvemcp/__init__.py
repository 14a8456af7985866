"""pvemcp: the MCP service of a Proxmox VE host."""

__version__ = "0.1.0"
