"""The approval page: persons with a Proxmox account see what waits, and say yes or no.

Served beside /mcp, before the check for a grant. No script runs in it, and nothing of it comes
from elsewhere.
"""
