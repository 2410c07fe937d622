-- CMS122 (Diabetes: Glycemic Status Assessment Greater Than 9%) 1.0.000 as one would write it by hand over the lake's
-- Parquet files: the physical yardstick of the engine. One row: initial population, denominator, exclusions, numerator.
--
-- period(first, last): the measurement period. codes(name, system, code): the value sets and codes of the measure.
-- The tables are views of bench/cms122.py: columns by name, null where nothing was ever stored.

create or replace temp macro day(t) as
    case when length(t) > 10 then cast(make_timestamp(epoch_us(cast(t as timestamptz))) as date) when length(t) = 10 then cast(t as date) end;
-- who declares QI-Core profiles is of exactly those
create or replace temp macro of_profile(profiles, name) as
    case when len(list_filter(profiles, lambda p: starts_with(p, 'http://hl7.org/fhir/us/qicore/'))) > 0
         then len(list_filter(profiles, lambda p: ends_with(p, '/' || name))) > 0 else true end;
create or replace temp macro has(concept, wanted) as len(list_filter(concept.coding, lambda one: one.code = wanted)) > 0;

with mp as materialized (select first, last, first - interval 1 year as year_before from period),
patient as materialized (
    select member, birth, date_sub('year', birth, last) as age from patients, mp
),
encounter as materialized (
    select member, name, s, coalesce(f, date '9999-12-31') as f, disposition
    from (
        select e.member, c.name, day(e.start_) as s, day(e.end_) as f, e.disposition
        from (select member, start_, end_, profiles, disposition, unnest(flatten(list_transform(type, lambda t: t.coding))) as coding
              from encounters where status = 'finished') e
        join codes c on c.system = e.coding.system and c.code = e.coding.code
        where of_profile(e.profiles, 'qicore-encounter')
    ), mp
    where s <= last and coalesce(f, date '9999-12-31') >= first
),
condition as materialized (
    select member, name, s, f, diagnosis
    from (
        select d.member, c.name,
            coalesce(day(d.onset), day(d.onset_start), cast(p.birth + to_years(cast(d.onset_age as integer)) as date)) as s,
            coalesce(day(d.abatement), day(d.abatement_end) - 1,
                cast(p.birth + to_years(cast(d.abatement_age as integer) + 1) as date) - 1,
                case when has(d.clinical, 'active') or has(d.clinical, 'recurrence') or has(d.clinical, 'relapse')
                     then date '9999-12-31' end) as f,
            case when len(list_filter(d.profiles, lambda u: starts_with(u, 'http://hl7.org/fhir/us/qicore/'))) > 0
                 then of_profile(d.profiles, 'qicore-condition-encounter-diagnosis')
                 else coalesce(len(list_filter(flatten(list_transform(d.category, lambda k: k.coding)),
                     lambda one: one.code in ('problem-list-item', 'health-concern'))) = 0, true) end as diagnosis
        from (select *, unnest(code.coding) as coding from conditions
              where verification is null or has(verification, 'confirmed') or has(verification, 'unconfirmed')
                  or has(verification, 'provisional') or has(verification, 'differential')) d
        join codes c on c.system = d.coding.system and c.code = d.coding.code
        join patient p on p.member = d.member
        where of_profile(d.profiles, 'qicore-condition-encounter-diagnosis')
            or of_profile(d.profiles, 'qicore-condition-problems-health-concerns')
    )
),
prevalent as materialized (
    select distinct member, name, diagnosis from condition, mp
    where coalesce(s, date '0001-01-01') <= last and f >= first and (s is not null or f < date '9999-12-31')
),
observation as materialized (
    select o.member, c.name, o.status, o.profiles, o.concept, o.quantity, o.unit, o.has_value,
        day(coalesce(o.done, o.start_)) as s, day(coalesce(o.done, o.end_)) as f, coalesce(o.done, o.end_) as ends,
        case when o.done is null and o.start_ is not null then coalesce(day(o.end_), date '9999-12-31') else day(coalesce(o.done, o.end_)) end as until
    from (select *, unnest(code.coding) as coding from observations) o
    join codes c on c.system = o.coding.system and c.code = o.coding.code
),
assessment as (
    select * from observation
    where status in ('final', 'amended', 'corrected') and of_profile(profiles, 'qicore-observation-screening-assessment')
),
procedure as materialized (
    select distinct o.member, c.name
    from (select *, unnest(code.coding) as coding from procedures where status = 'completed') o
    join codes c on c.system = o.coding.system and c.code = o.coding.code, mp
    where of_profile(o.profiles, 'qicore-procedure') and day(coalesce(o.done, o.start_)) <= last
        and coalesce(day(coalesce(o.done, o.end_)), date '9999-12-31') >= first
),
device as (
    select distinct o.member
    from (select *, unnest(code.coding) as coding from device_requests where status in ('active', 'completed')
          and intent in ('order', 'original-order', 'reflex-order', 'filler-order', 'instance-order')) o
    join codes c on c.system = o.coding.system and c.code = o.coding.code and c.name = 'Frailty Device', mp
    where of_profile(o.profiles, 'qicore-devicerequest') and day(o.authored) between first and last
),
hospice_order as (
    select distinct o.member
    from (select *, unnest(code.coding) as coding from service_requests where status in ('active', 'completed')
          and intent in ('order', 'original-order', 'reflex-order', 'filler-order', 'instance-order')
          and not coalesce(do_not_perform, false)) o
    join codes c on c.system = o.coding.system and c.code = o.coding.code and c.name = 'Hospice Care Ambulatory', mp
    where of_profile(o.profiles, 'qicore-servicerequest') and day(o.authored) between first and last
),
prescription as (
    select member, s, s + cast(floor(coalesce(days,
            quantity / (dose * case period_unit when 'h' then frequency * 24.0 / period when 'd' then frequency * 1.0 / period
                when 'wk' then frequency / (7.0 * period) when 'mo' then frequency / (30.0 * period) else 1 end)
        ) * (1 + coalesce(refills, 0)) - 1) as integer) as f, day(bounds_end) as bounds_end
    from (
        select m.member, coalesce(day(m.bounds_start), day(m.authored), day(m.valid_start)) as s, m.bounds_end, m.quantity, m.dose,
            m.frequency, m.period, m.period_unit, m.refills,
            m.supply * case coalesce(m.supply_code, m.supply_unit) when 'wk' then 7 when 'weeks' then 7 when 'week' then 7
                when 'd' then 1 when 'day' then 1 when 'days' then 1 end as days
        from (
            select *, unnest(medication.coding) as coding from medication_requests
            union all by name
            select r.*, unnest(n.code.coding) as coding from medication_requests r
            join medications n on n.id = regexp_extract(r.medication_reference, '[^/]+$')
        ) m
        join codes c on c.system = m.coding.system and c.code = m.coding.code and c.name = 'Dementia Medications'
        where m.status = 'active' and m.intent in ('order', 'original-order', 'reflex-order', 'filler-order', 'instance-order')
            and not coalesce(m.do_not_perform, false) and of_profile(m.profiles, 'qicore-medicationrequest')
    )
),
glycemic as materialized (
    select member, quantity, unit, has_value, coalesce(f, s) as on_day
    from observation, mp
    where name = 'Glycemic' and status in ('final', 'amended', 'corrected') and of_profile(profiles, 'qicore-observation-lab')
        and coalesce(f, s) between first and last
),
lowest as (
    select member, quantity, unit, has_value from glycemic
    qualify row_number() over (partition by member order by on_day desc, quantity nulls first) = 1
),
nursing_home as (
    select member, concept from assessment, mp where name = 'Housing status' and until <= last
    qualify row_number() over (partition by member order by ends desc) = 1
),
qualifying as (
    select distinct member from encounter, mp
    where name in ('Office Visit', 'Annual Wellness Visit', 'Preventive Care Services Established Office Visit, 18 and Up',
        'Preventive Care Services Initial Office Visit, 18 and Up', 'Home Healthcare Services', 'Nutrition Services',
        'Medical nutrition therapy', 'Telephone Visits') and s >= first and f <= last
),
frailty as (
    select member from device
    union select a.member from assessment a, mp
        where a.name = 'Medical equipment used' and a.until between first and last
            and exists (select 1 from unnest(a.concept.coding) as t(t)
                join codes v on v.system = t.system and v.code = t.code and v.name = 'Frailty Device')
    union select member from prevalent where name = 'Frailty Diagnosis'
    union select member from encounter where name = 'Frailty Encounter'
    union select o.member from observation o, mp
        where o.name = 'Frailty Symptom' and o.status in ('preliminary', 'final', 'amended', 'corrected')
            and of_profile(o.profiles, 'qicore-simple-observation') and o.s <= last and o.until >= first
),
illness as (
    select member from condition, mp where name = 'Advanced Illness' and s between year_before and last
    union select member from prescription, mp where s <= last and coalesce(f, bounds_end) >= year_before
),
excluded as (
    select member from encounter, mp
        where name = 'Encounter Inpatient' and f between first and last
            and (has(disposition, '428361000124107') or has(disposition, '428371000124100'))
    union select member from encounter where name in ('Hospice Encounter', 'Palliative Care Encounter')
    union select a.member from assessment a, mp where a.s <= last and a.until >= first
            and (a.name = 'FACIT-Pal' or (a.name = 'Hospice care [Minimum Data Set]' and has(a.concept, '373066001')))
    union select member from hospice_order
    union select member from procedure where name in ('Hospice Care Ambulatory', 'Palliative Care Intervention')
    union select member from prevalent where name in ('Hospice Diagnosis', 'Palliative Care Diagnosis')
    union select member from nursing_home join patient using (member) where age >= 66 and has(concept, '160734000')
    union select member from patient join frailty using (member) join illness using (member) where age >= 66
),
initial as (
    select member from patient
    semi join qualifying using (member)
    semi join (select member from prevalent where name = 'Diabetes' and diagnosis) using (member)
    where age between 18 and 75
)
select count(*) as initial_population, count(*) as denominator, count(x.member) as denominator_exclusion,
    count(*) filter (where x.member is null
        and (l.member is null or not l.has_value or (l.unit = '%' and l.quantity > 9))) as numerator
from initial i left join excluded x using (member) left join lowest l using (member)
