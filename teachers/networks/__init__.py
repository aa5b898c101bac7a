"""The U-Nets inside of denoisers: DDPM++, NCSN++, ADM, EDM2's."""
