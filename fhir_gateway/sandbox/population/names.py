"""Names that people and places are made of."""

from __future__ import annotations

_FAMILIES = """
Adams Alvarez Anderson Baker Begay Bennett Brooks Brown Campbell Carter Castillo Chavez Clark Collins Cooper Cruz
Davis Diaz Edwards Evans Fisher Flores Foster Garcia Gomez Gonzalez Gray Green Gutierrez Hall Harris Hernandez Hill
Howard Hughes Jackson James Jenkins Jimenez Johnson Jones Kelly Kim King Lee Lewis Long Lopez Martin Martinez Mendoza
Miller Mitchell Moore Morales Morgan Morris Murphy Myers Nelson Nguyen Ortiz Parker Patel Perez Peterson Phillips
Powell Price Ramirez Ramos Reed Reyes Richardson Rivera Roberts Robinson Rodriguez Rogers Ross Ruiz Sanchez Sanders
Scott Smith Stewart Sullivan Taylor Thomas Thompson Torres Tsosie Turner Walker Ward Watson White Williams Wilson Wood
Wright Yazzie Young
"""
_WOMEN = """
Abigail Alice Amelia Ana Angela Anna Ava Carmen Carol Charlotte Diana Dolores Donna Elena Elizabeth Ella Emily Emma
Evelyn Gloria Grace Guadalupe Hannah Helen Isabel Jane Janet Joan Judith Julia Karen Laura Linda Lucia Margaret Maria
Martha Mary Mia Nancy Olivia Patricia Rosa Ruth Sandra Sarah Sofia Susan Teresa Victoria
"""
_MEN = """
Aaron Adam Albert Alejandro Andrew Anthony Benjamin Brian Carlos Charles Christopher Daniel David Dennis Diego Edward
Eric Ethan Francisco Frank Gabriel George Gregory Henry Jack Jacob James Javier Jerry John Jorge Jose Joseph Juan
Kevin Liam Louis Luis Manuel Mark Michael Miguel Noah Patrick Paul Peter Robert Roger Thomas William
"""
_STREETS = """
Acacia Camelback Desert Elm Foothill Grand Highland Indian Jefferson Lincoln Main Oak
"""

#: Family names.
FAMILIES = tuple(_FAMILIES.split())
#: Given names of women.
WOMEN = tuple(_WOMEN.split())
#: Given names of men.
MEN = tuple(_MEN.split())
#: Street names.
STREETS = tuple(_STREETS.split())
#: Cities with a postal code; all in Arizona.
CITIES = (("Phoenix", "85003"), ("Mesa", "85201"), ("Tempe", "85281"), ("Tucson", "85701"), ("Flagstaff", "86001"))
