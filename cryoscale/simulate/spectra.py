"""Reflectance spectra of what lies on a mountain: twelve Sentinel-2 L2A bands, mean and covariance.

Snow, shadowed snow, ice, rock and water are estimated from 10 thousand labelled Sentinel-2 L2A
pixels on Gulkana, South Cascade, Sperry and Wolverine glaciers, summer 2021 (Aberle et al.,
github.com/RaineyAbe/glacier-snow-cover-mapping, MIT licence): minimum covariance determinant
with 80 % support, since the labels hold some clouds and mixed pixels; Wolverine 2021-06-15 is
left out because its classes 2, 3 and 4 repeat one another's pixels. The file's snow is told apart
into fresh snow (Gulkana 2021-06-15, Wolverine 2021-08-29) and old, dusty firn (the rest).
Vegetation, which that file lacks, is 600 runs of PROSAIL (PROSPECT-D with 4SAIL; Jacquemoud et al.
2009, https://doi.org/10.1016/j.rse.2008.01.026) for an alpine meadow and shrub canopy in autumn:
leaf area index 2.2 +- 0.8, chlorophyll 35 +- 8 ug/cm2, brown pigments 0.25 +- 0.12, sun 43 degrees
from the zenith. Cloud is a parametrisation: white and flat up to 0.9 um, falling with the
absorption of water and ice in the short-wave infrared (Dozier 1989,
https://doi.org/10.1016/0034-4257(89)90101-6).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""The twelve bands of Sentinel-2 L2A, in the order of every spectrum here."""


@dataclass(frozen=True)
class Spectrum:
    """Mean reflectance (b,) of a class and the lower triangle of its covariance in units of 1e-5."""

    mean: tuple[float, ...]
    covariance_e5: tuple[tuple[int, ...], ...]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The covariance (b, b), reflectance squared."""
        lower = np.zeros((len(self.mean), len(self.mean)))
        for row, values in enumerate(self.covariance_e5):
            lower[row, : row + 1] = values
        return (lower + np.tril(lower, -1).T) * 1e-5

    def axes(self, count: int) -> NDArray[np.float32]:
        """The ``count`` leading principal axes (b, axis), each as long as its standard deviation.

        ``axes @ z`` with independent standard normal ``z`` has nearly the class's covariance.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        first = np.argsort(values)[::-1][:count]
        signs = np.sign(vectors[:, first].sum(axis=0))
        return np.asarray(vectors[:, first] * signs * np.sqrt(np.maximum(values[first], 0.0)), np.float32)


SPECTRA: dict[str, Spectrum] = {
    "snow": Spectrum(
        mean=(0.842, 0.894, 0.905, 0.880, 0.899, 0.829, 0.759, 0.719, 0.680, 0.682, 0.014, 0.012),
        covariance_e5=(
            (223,),
            (199, 233),
            (169, 204, 187),
            (144, 178, 167, 156),
            (143, 174, 165, 155, 160),
            (129, 152, 145, 139, 144, 132),
            (118, 141, 134, 129, 133, 122, 117),
            (111, 132, 126, 123, 126, 117, 111, 111),
            (106, 116, 112, 112, 118, 112, 106, 104, 104),
            (106, 102, 99, 99, 104, 100, 95, 94, 94, 95),
            (5, 5, 5, 4, 5, 4, 4, 4, 4, 4, 0),
            (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0),
        ),
    ),
    "firn": Spectrum(
        mean=(0.627, 0.721, 0.756, 0.774, 0.801, 0.757, 0.709, 0.679, 0.658, 0.623, 0.025, 0.022),
        covariance_e5=(
            (2373,),
            (1625, 1483),
            (1519, 1379, 1301),
            (1281, 1175, 1119, 983),
            (1259, 1150, 1098, 969, 984),
            (1062, 974, 934, 833, 846, 742),
            (853, 789, 763, 690, 705, 627, 545),
            (730, 703, 683, 624, 619, 555, 486, 455),
            (670, 625, 612, 565, 581, 527, 467, 422, 414),
            (1122, 735, 717, 643, 645, 572, 492, 439, 420, 698),
            (-128, -72, -68, -56, -56, -45, -33, -25, -24, -56, 14),
            (-121, -69, -65, -54, -54, -43, -33, -25, -23, -54, 13, 12),
        ),
    ),
    "shadowed_snow": Spectrum(
        mean=(0.557, 0.460, 0.400, 0.326, 0.314, 0.292, 0.268, 0.234, 0.226, 0.304, 0.010, 0.009),
        covariance_e5=(
            (5287,),
            (3342, 3390),
            (2887, 2935, 2582),
            (2359, 2415, 2162, 1864),
            (2288, 2263, 2048, 1793, 1821),
            (2081, 2092, 1894, 1660, 1676, 1565),
            (1900, 1928, 1753, 1547, 1572, 1458, 1386),
            (1663, 1730, 1574, 1385, 1357, 1262, 1190, 1068),
            (1618, 1627, 1489, 1325, 1359, 1260, 1193, 1029, 1046),
            (2881, 1176, 1114, 1008, 1070, 962, 899, 776, 790, 2529),
            (2, 25, 25, 25, 27, 25, 26, 21, 22, 0, 4),
            (3, 21, 21, 20, 21, 20, 20, 17, 18, -2, 3, 2),
        ),
    ),
    "ice": Spectrum(
        mean=(0.338, 0.357, 0.365, 0.347, 0.354, 0.318, 0.279, 0.255, 0.241, 0.234, 0.014, 0.013),
        covariance_e5=(
            (1753,),
            (1632, 1671),
            (1574, 1605, 1554),
            (1465, 1484, 1444, 1364),
            (1490, 1487, 1448, 1373, 1406),
            (1363, 1352, 1320, 1264, 1295, 1208),
            (1216, 1198, 1174, 1136, 1166, 1096, 1007),
            (1176, 1167, 1146, 1111, 1128, 1064, 979, 969),
            (1124, 1099, 1080, 1053, 1082, 1025, 946, 926, 897),
            (1261, 1170, 1154, 1127, 1157, 1096, 1015, 992, 963, 1105),
            (-28, -27, -26, -22, -23, -19, -15, -14, -13, -14, 3),
            (-25, -24, -23, -19, -20, -16, -12, -12, -11, -13, 2, 2),
        ),
    ),
    "rock": Spectrum(
        mean=(0.112, 0.113, 0.138, 0.150, 0.162, 0.170, 0.177, 0.175, 0.178, 0.194, 0.242, 0.223),
        covariance_e5=(
            (210,),
            (101, 125),
            (99, 130, 158),
            (95, 132, 182, 239),
            (90, 129, 184, 249, 275),
            (75, 118, 179, 249, 281, 304),
            (72, 117, 181, 256, 291, 316, 334),
            (64, 112, 178, 253, 281, 311, 327, 334),
            (60, 107, 174, 254, 292, 325, 343, 341, 360),
            (125, 100, 160, 230, 262, 288, 304, 302, 316, 364),
            (36, 106, 197, 305, 345, 384, 410, 413, 436, 360, 659),
            (62, 124, 203, 296, 324, 347, 368, 367, 383, 320, 588, 553),
        ),
    ),
    "water": Spectrum(
        mean=(0.090, 0.110, 0.147, 0.096, 0.078, 0.033, 0.032, 0.026, 0.022, 0.054, 0.016, 0.014),
        covariance_e5=(
            (66,),
            (40, 57),
            (69, 82, 172),
            (63, 62, 160, 167),
            (57, 51, 131, 138, 118),
            (35, 27, 51, 52, 51, 36),
            (32, 26, 45, 44, 44, 33, 32),
            (29, 23, 36, 35, 36, 29, 28, 25),
            (29, 21, 28, 26, 30, 31, 30, 27, 32),
            (47, 16, -4, -10, 8, 38, 39, 38, 49, 241),
            (15, 13, -1, -8, 1, 19, 20, 19, 25, 49, 26),
            (15, 13, 1, -5, 3, 18, 19, 18, 24, 44, 24, 23),
        ),
    ),
    "vegetation": Spectrum(
        mean=(0.028, 0.039, 0.095, 0.032, 0.136, 0.378, 0.453, 0.474, 0.485, 0.490, 0.287, 0.121),
        covariance_e5=(
            (2,),
            (2, 3),
            (1, 5, 37),
            (3, 4, 9, 8),
            (0, 6, 47, 12, 64),
            (-13, -5, 43, -16, 53, 209),
            (-18, -12, 27, -29, 33, 251, 330),
            (-19, -14, 22, -31, 30, 248, 334, 345),
            (-20, -14, 19, -32, 28, 245, 335, 350, 357),
            (-19, -14, 16, -31, 26, 229, 317, 336, 345, 336),
            (-2, -1, 10, -2, 15, 51, 68, 74, 78, 83, 92),
            (4, 5, 7, 8, 9, -10, -17, -16, -15, -9, 58, 56),
        ),
    ),
}
"""Class spectra by name; see the module's text for where they come from."""

CLOUD_MEAN = (0.76, 0.76, 0.76, 0.77, 0.78, 0.78, 0.79, 0.80, 0.80, 0.72, 0.50, 0.37)
"""Reflectance (b,) of a thick cloud."""


@cache
def shade_ratio() -> NDArray[np.float32]:
    """What a cast shadow leaves of the reflectance (b,), as the labelled snow pixels show it.

    The ratio of shadowed to sunlit old snow: 0.9 in the violet, 0.4 in the red, 0.34 in the near
    infrared, by the light of the sky. In B09 and the short-wave infrared snow is so dark that the
    ratio is noise, hence a continuation that falls as Rayleigh scattering does.
    """
    ratio = np.array(SPECTRA["shadowed_snow"].mean) / np.array(SPECTRA["firn"].mean)
    ratio[BANDS.index("B09") :] = (0.32, 0.22, 0.18)
    return np.asarray(ratio, np.float32)
