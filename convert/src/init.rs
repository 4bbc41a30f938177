//! Initial values: each element a pure function of seed, name and position, so that any part of any tensor can be made
//! alone and is the same.
//!
//! | step | what |
//! |---|---|
//! | bits | Philox4x32-10: the counter is `(position / 2, seed)`, the key the CRC-64/NVME of the FQN; of its 128 bits the half that `position % 2` says |
//! | uniform | `(bits >> 11) + 1/2` in units of `2^-53`: never 0 or 1 |
//! | normal | the inverse of the distribution function, so that one uniform number makes one element |
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Wichura, algorithm AS 241
//! (PPND16), Applied Statistics 37, 1988. Logarithms are those of the crate `libm`, so that no system's library decides.
//! Not the numbers that PyTorch draws: the same distributions.

use crc_fast::CrcAlgorithm::Crc64Nvme;

/// How a parameter begins.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal, mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal, mean 0, nothing beyond `bound` on either side, as `torch.nn.init.trunc_normal_` with absolute bounds.
    TruncatedNormal {
        /// Standard deviation of the distribution that is cut.
        std: f64,
        /// Largest magnitude.
        bound: f64,
    },
    /// Uniform between `-bound` and `bound`.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
}

/// The elements of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    init: Init,
    key: [u32; 2],
    seed: [u32; 2],
    /// Of the normal distribution function, where the bounds are.
    low: f64,
    width: f64,
}

impl Generator {
    /// The elements of the parameter of this name.
    pub fn new(init: Init, seed: u64, fqn: &str) -> Self {
        let halves = |bits: u64| [bits as u32, (bits >> 32) as u32];
        let (low, high) = match init {
            Init::TruncatedNormal { std, bound } => (distribution(-bound / std), distribution(bound / std)),
            _ => (0.0, 1.0),
        };
        let key = halves(crc_fast::checksum(Crc64Nvme, fqn.as_bytes()));
        Generator { init, key, seed: halves(seed), low, width: high - low }
    }

    /// The elements from position `first` on, row-major.
    pub fn fill(&self, first: u64, target: &mut [f32]) {
        match self.init {
            Init::Zeros => target.fill(0.0),
            Init::Ones => target.fill(1.0),
            Init::Normal { std } => self.draw(first, target, |uniform| std * quantile(uniform)),
            Init::TruncatedNormal { std, bound } => self.draw(first, target, |uniform| {
                (std * quantile(self.low + uniform * self.width)).clamp(-bound, bound)
            }),
            Init::Uniform { bound } => self.draw(first, target, |uniform| bound * (2.0 * uniform - 1.0)),
        }
    }

    fn draw(&self, first: u64, target: &mut [f32], value: impl Fn(f64) -> f64) {
        // A block has two elements: the second alone, pairs, the first alone.
        let lone = (first % 2) as usize;
        let (before, rest) = target.split_at_mut(lone.min(target.len()));
        if let [only] = before {
            *only = value(self.block(first / 2)[1]) as f32;
        }
        let mut pairs = rest.chunks_exact_mut(2);
        for (block, pair) in (first.div_ceil(2)..).zip(&mut pairs) {
            let uniform = self.block(block);
            pair[0] = value(uniform[0]) as f32;
            pair[1] = value(uniform[1]) as f32;
        }
        let end = first + lone as u64 + rest.len() as u64;
        if let [only] = rest.chunks_exact_mut(2).into_remainder() {
            *only = value(self.block(end / 2)[0]) as f32;
        }
    }

    /// The two uniform numbers of a block.
    fn block(&self, block: u64) -> [f64; 2] {
        let words = philox([block as u32, (block >> 32) as u32, self.seed[0], self.seed[1]], self.key);
        let uniform = |low: u32, high: u32| {
            let bits = u64::from(low) | u64::from(high) << 32;
            ((bits >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
        };
        [uniform(words[0], words[1]), uniform(words[2], words[3])]
    }
}

/// Philox4x32 with 10 rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// The normal distribution function.
fn distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Its inverse, for arguments between 0 and 1: AS 241, about 16 digits.
fn quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * ratio(r, &CENTRE);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    // The bounds of a distribution that is cut far out round to 0 and 1.
    let r = (-libm::log(tail.max(f64::MIN_POSITIVE))).sqrt();
    let x = if r <= 5.0 { ratio(r - 1.6, &TAIL) } else { ratio(r - 5.0, &FAR_TAIL) };
    if q < 0.0 { -x } else { x }
}

/// Coefficients of numerator and denominator, the constant ones first.
type Ratio = [[f64; 8]; 2];

#[expect(clippy::excessive_precision, reason = "as published")]
const CENTRE: Ratio = [
    [
        3.387_132_872_796_366_608_0,
        133.141_667_891_784_377_45,
        1_971.590_950_306_551_442_7,
        13_731.693_765_509_461_125,
        45_921.953_931_549_871_457,
        67_265.770_927_008_700_853,
        33_430.575_583_588_128_105,
        2_509.080_928_730_122_672_7,
    ],
    [
        1.0,
        42.313_330_701_600_911_252,
        687.187_007_492_057_908_30,
        5_394.196_021_424_751_107_7,
        21_213.794_301_586_595_867,
        39_307.895_800_092_710_610,
        28_729.085_735_721_942_674,
        5_226.495_278_852_854_561_0,
    ],
];
#[expect(clippy::excessive_precision, reason = "as published")]
const TAIL: Ratio = [
    [
        1.423_437_110_749_683_577_34,
        4.630_337_846_156_545_295_90,
        5.769_497_221_460_691_405_50,
        3.647_848_324_763_204_605_04,
        1.270_458_252_452_368_382_58,
        0.241_780_725_177_450_611_770,
        0.022_723_844_989_269_184_583_3,
        0.000_774_545_014_278_341_407_640,
    ],
    [
        1.0,
        2.053_191_626_637_758_821_87,
        1.676_384_830_183_803_849_40,
        0.689_767_334_985_100_004_550,
        0.148_103_976_427_480_074_590,
        0.015_198_666_563_616_457_196_6,
        0.000_547_593_808_499_534_494_600,
        0.000_000_001_050_750_071_644_416_843_24,
    ],
];
#[expect(clippy::excessive_precision, reason = "as published")]
const FAR_TAIL: Ratio = [
    [
        6.657_904_643_501_103_777_20,
        5.463_784_911_164_114_369_90,
        1.784_826_539_917_291_335_80,
        0.296_560_571_828_504_891_230,
        0.026_532_189_526_576_123_093_0,
        0.001_242_660_947_388_078_438_60,
        0.000_027_115_555_687_434_875_781_5,
        0.000_000_201_033_439_929_228_813_265,
    ],
    [
        1.0,
        0.599_832_206_555_887_937_690,
        0.136_929_880_922_735_805_310,
        0.014_875_361_290_850_614_852_5,
        0.000_786_869_131_145_613_259_100,
        0.000_018_463_183_175_100_546_818_0,
        0.000_000_142_151_175_831_644_588_870,
        0.000_000_000_000_002_044_263_103_389_939_785_64,
    ],
];

fn ratio(x: f64, coefficients: &Ratio) -> f64 {
    let [numerator, denominator] =
        coefficients.map(|of| of.iter().rev().fold(0.0, |sum, factor| sum * x + factor));
    numerator / denominator
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with Random123.
    #[test]
    fn philox_is_philox() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u32::MAX;
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let key = [0xa409_3822, 0x299f_31d0];
        assert_eq!(philox(pi, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn the_quantile_inverts_the_distribution() {
        assert_eq!(quantile(0.5), 0.0);
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-14);
        assert!((quantile(1e-10) + 6.361_340_902_404_056).abs() < 1e-12);
        for at in -320..=0 {
            let x = f64::from(at) / 40.0;
            assert!((quantile(distribution(x)) - x).abs() < 1e-13 * x.abs().max(1.0), "{x}");
            let mirrored = quantile(1.0 - distribution(x));
            assert!(x < -5.0 || (mirrored + x).abs() < 1e-9, "{x}");
        }
        assert!(quantile(0.0).is_finite() && quantile(1.0).is_finite());
    }

    fn drawn(init: Init) -> Vec<f64> {
        let mut values = vec![0.0; 400_000];
        Generator::new(init, 7, "layers.3.attention.wq.weight").fill(0, &mut values);
        values.into_iter().map(f64::from).collect()
    }

    /// Mean and standard deviation within five of their own standard errors.
    fn check_moments(init: Init, std: f64, kurtosis: f64) {
        let values = drawn(init);
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 5.0 * std / count.sqrt(), "{init:?}: mean {mean}");
        let error = std * ((kurtosis - 1.0) / (4.0 * count)).sqrt();
        assert!((variance.sqrt() - std).abs() < 5.0 * error, "{init:?}: std {}", variance.sqrt());
    }

    #[test]
    fn moments_and_bounds_are_those_asked_for() {
        check_moments(Init::Normal { std: 1.0 }, 1.0, 3.0);
        check_moments(Init::TruncatedNormal { std: 0.02, bound: 2.0 }, 0.02, 3.0);
        check_moments(Init::Uniform { bound: 0.5 }, 0.5 / 3f64.sqrt(), 1.8);
        // Cut at three deviations a normal distribution keeps 0.98658 of its own, kurtosis 2.8369.
        let (std, bound) = (1.0 / 64.0, 3.0 / 64.0);
        check_moments(Init::TruncatedNormal { std, bound }, 0.986_58 * std, 2.836_9);
        let largest =
            drawn(Init::TruncatedNormal { std, bound }).iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(largest <= bound && largest > 0.98 * bound, "{largest}");
        assert!(drawn(Init::Ones).iter().all(|value| *value == 1.0));
        assert!(drawn(Init::Zeros).iter().all(|value| *value == 0.0));
    }

    #[test]
    fn a_part_is_the_same_as_in_the_whole() {
        let generator = Generator::new(Init::Normal { std: 1.0 }, 1, "w");
        let mut whole = vec![0.0; 101];
        generator.fill(5, &mut whole);
        for (from, until) in [(0, 1), (1, 2), (0, 101), (3, 50), (4, 4), (100, 101)] {
            let mut part = vec![0.0; until - from];
            generator.fill(5 + from as u64, &mut part);
            assert_eq!(part, whole[from..until]);
        }
        let other = |seed, fqn| {
            let mut values = [0.0; 4];
            Generator::new(Init::Normal { std: 1.0 }, seed, fqn).fill(5, &mut values);
            values
        };
        assert_ne!(other(1, "w"), other(2, "w"));
        assert_ne!(other(1, "w"), other(1, "v"));
        // What a seed means never changes.
        let known = [1_071_779_837, 1_031_874_136, 3_156_771_594, 3_202_816_644];
        assert_eq!(other(1, "w").map(f32::to_bits), known);
    }
}
