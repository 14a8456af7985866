"""How the service looks after itself: who is connected, what is wrong, and who hears of it."""
