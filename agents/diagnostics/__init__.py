"""Tools that show what rewards do: doctor, heat maps, reward video."""
