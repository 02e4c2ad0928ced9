"""How a bound of bits per dimension is estimated: passes, times, control variates, and the errors of what they say."""
